"""Names in tables: in full where there is room, otherwise cut in the middle, and never two alike."""

from __future__ import annotations

from collections.abc import Sequence

_DOTS = "..."
_MIN_WIDTH = 12
_COLUMN_GAP = 2


def cut_names(names: Sequence[str], width: int | None) -> list[str]:
    """Return names of at most ``width`` letters; different names stay different.

    What is left of a name are its start and its end. They meet at the same place in all names: the one closest to the
    middle where no two look alike. Where there is no such place, the end gives way to the number of the row.

    Args:
        names: in the order of the rows.
        width: letters that a name may take, at least 12; None for any number.

    >>> cut_names(["/stage1/block1/conv/Conv", "/stage1/block2/conv/Conv"], 16)
    ['/s...1/conv/Conv', '/s...2/conv/Conv']
    """
    if width is None or all(len(name) <= width for name in names):
        return list(names)
    width = max(width, _MIN_WIDTH)
    room = width - len(_DOTS)
    different = len(set(names))
    for head in sorted(range(1, room), key=lambda head: abs(2 * head - room)):
        cut = [name if len(name) <= width else f"{name[:head]}{_DOTS}{name[head - room :]}" for name in names]
        if len(set(cut)) == different:
            return cut
    return [_numbered(name, number, width) for number, name in enumerate(names, start=1)]


def _numbered(name: str, number: int, width: int) -> str:
    """Return the start of a name that is too long, with its number."""
    end = f"{_DOTS}#{number}"
    return name if len(name) <= width else f"{name[: width - len(end)]}{end}"


def fit_names(rows: Sequence[Sequence[str]], columns: int | None, wrapped: int | None = None) -> list[list[str]]:
    """Return the rows of a table with the names in their first cells cut so that it fits into a terminal.

    Args:
        rows: the cells, the heading first.
        columns: of the terminal; None where lines may have any length.
        wrapped: columns that the last cells need, which wrap; None where they do not.
    """
    heading, *body = rows
    if columns is None or not body:
        return [list(row) for row in rows]
    widths = [max(map(len, column)) + _COLUMN_GAP for column in zip(*rows, strict=True)][1:]
    if wrapped is not None:
        widths[-1] = min(widths[-1], wrapped)
    names = cut_names([row[0] for row in body], columns - sum(widths))
    return [list(heading), *([name, *row[1:]] for name, row in zip(names, body, strict=True))]
