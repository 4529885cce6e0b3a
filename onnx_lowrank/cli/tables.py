"""Where tables are printed: cut to the width of a terminal, whole in files and pipes."""

from __future__ import annotations

from rich.console import Console

_ANY_WIDTH = 10_000


def table_console() -> tuple[Console, int | None]:
    """Return a console on stdout, and the columns that its lines may have; None where it is no terminal."""
    console = Console(highlight=False)
    return (console, console.width) if console.is_terminal else (Console(highlight=False, width=_ANY_WIDTH), None)
