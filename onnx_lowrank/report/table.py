"""Tables of a page that can be sorted: columns of cells, each with its text and the value it is sorted by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx_lowrank.report.text import short_number


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is shown.
        value: what the cell is sorted by; empty cells come last.
    """

    text: str = ""
    value: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        cells: from top to bottom.
        numeric: whether it is sorted by number.
    """

    title: str
    cells: Sequence[Cell]
    numeric: bool = True


def words(title: str, texts: Iterable[str]) -> Column:
    """Return a column of texts, sorted alphabetically."""
    return Column(title, [Cell(text, text) for text in texts], numeric=False)


def counts(title: str, values: Iterable[int | None]) -> Column:
    """Return a column of whole numbers; cells are empty for None."""
    return Column(title, [Cell() if value is None else Cell(str(value), str(value)) for value in values])


def short_counts(title: str, values: Iterable[int | None]) -> Column:
    """Return a column of large numbers with unit prefixes; cells are empty for None."""
    return Column(title, [Cell() if value is None else Cell(short_number(value), str(value)) for value in values])


def numbers(title: str, values: Iterable[float | None], form: str, unit: str = "") -> Column:
    """Return a column of numbers; cells are empty for None.

    Args:
        title: its heading.
        values: from top to bottom.
        form: format specification, such as ``.2f``.
        unit: written after each number.
    """
    return Column(
        title, [Cell() if value is None else Cell(f"{value:{form}}{unit}", repr(float(value))) for value in values]
    )


def without_empty(columns: Iterable[Column]) -> list[Column]:
    """Return the columns that have any text."""
    return [column for column in columns if any(cell.text for cell in column.cells)]


def rows(columns: Sequence[Column]) -> list[tuple[Cell, ...]]:
    """Return the cells of the columns row by row."""
    return list(zip(*(column.cells for column in columns), strict=True))
