"""The table of layers on the page: what is shown in a cell, and what it is sorted by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnx_lowrank.report.figures import ReportFigures
from onnx_lowrank.report.report import LayerReport, Report
from onnx_lowrank.report.text import short_number


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: over it.
        numeric: whether it holds numbers.
    """

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: shown.
        value: sorted by; empty cells come last.
    """

    text: str = ""
    value: str = ""


Row = tuple[int, LayerReport, tuple[int, ...] | None]
_Show = Callable[[Row], Cell]


def columns(report: Report) -> list[Column]:
    """The columns of a report's table; those that would be empty all over are left out."""
    return [column for column, _ in _columns(report)]


def layer_rows(report: Report, figures: ReportFigures) -> list[list[Cell]]:
    """A row of cells for every layer, in the order of the graph.

    Args:
        report: its layers.
        figures: the shapes of their weights.
    """
    shows = [show for _, show in _columns(report)]
    rows = [(number, layer, figures.kernels.get(layer.name)) for number, layer in enumerate(report.layers, 1)]
    return [[show(row) for show in shows] for row in rows]


def _columns(report: Report) -> list[tuple[Column, _Show]]:
    layers = report.layers
    found: list[tuple[Column, _Show]] = [
        (Column("#"), lambda row: _count(row[0])),
        (Column("layer", numeric=False), lambda row: _text(row[1].name)),
        (Column("op", numeric=False), lambda row: _text(row[1].op)),
        (Column("weight"), _weight),
        (Column("method", numeric=False), lambda row: _text(row[1].method)),
        (Column("spatial rank"), lambda row: _count(row[1].spatial)),
        (Column("channel rank"), lambda row: _count(row[1].channel)),
        (Column("MACs before"), lambda row: _short(row[1].macs[0])),
        (Column("MACs after"), lambda row: _short(row[1].macs[1])),
    ]
    if any(layer.milliseconds for layer in layers):
        found += [
            (Column("ms before"), lambda row: _figure(row[1].milliseconds and row[1].milliseconds[0], ".3g")),
            (Column("ms after"), lambda row: _figure(row[1].milliseconds and row[1].milliseconds[1], ".3g")),
        ]
    found.append((Column("energy"), lambda row: _figure(None if row[1].method == "kept" else row[1].energy, ".4f")))
    if any(layer.errors for layer in layers):
        found += [
            (Column("error, linear"), lambda row: _figure(row[1].errors and row[1].errors.linear, ".4f")),
            (Column("error, solved"), lambda row: _figure(row[1].errors and row[1].errors.solved, ".4f")),
        ]
    if any(layer.reason for layer in layers):
        found.append((Column("why it stays", numeric=False), lambda row: _text(row[1].reason or "")))
    return found


def _weight(row: Row) -> Cell:
    """Its shape, sorted by its size."""
    shape = row[2]
    if shape is None:
        return Cell()
    size = 1
    for side in shape:
        size *= side
    return Cell("×".join(map(str, shape)), str(size))


def _text(text: str) -> Cell:
    return Cell(text, text)


def _count(value: int | None) -> Cell:
    return Cell() if value is None else Cell(str(value), str(value))


def _short(value: int) -> Cell:
    return Cell(short_number(value), str(value))


def _figure(value: Any, form: str) -> Cell:
    return Cell() if value is None else Cell(format(value, form), repr(float(value)))
