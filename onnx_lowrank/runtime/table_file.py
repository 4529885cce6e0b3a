"""Where tables of latencies are kept: in a file of the user's, or in a cache, which may fail and be broken."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from onnx_lowrank.errors import BudgetError, OutputError
from onnx_lowrank.graph import Publication, add_texts
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine

log = logging.getLogger(__name__)


def read_table(file: Path, here: Machine, *, is_cache: bool) -> LatencyTable:
    """Read a table; an empty one of this machine where there is none.

    Args:
        file: its path.
        here: this machine.
        is_cache: whether it is one that may be forgotten.

    Raises:
        BudgetError: the file cannot be read, or is no table.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return LatencyTable(here)
    except (OSError, UnicodeDecodeError) as error:
        if is_cache:
            return LatencyTable(here)
        raise BudgetError(f"`latency_table` {file}: cannot be read ({error}): check the path") from error
    if not is_cache:
        return LatencyTable.from_json(text, f"`latency_table` {file}")
    with contextlib.suppress(BudgetError):  # a broken cache is none
        return LatencyTable.from_json(text, "cache")
    return LatencyTable(here)


def write_table(table: LatencyTable, file: Path, *, is_cache: bool) -> None:
    """Write a table.

    Args:
        table: what to write.
        file: where to; an existing one is replaced.
        is_cache: whether it may be left out where it cannot be written.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        if is_cache:
            file.parent.mkdir(parents=True, exist_ok=True)
        with Publication(is_result=not is_cache) as publication:
            add_texts({file: table.to_json()}, publication)
    except (OSError, OutputError) as error:
        if not is_cache:
            raise
        log.debug("latencies are not remembered: %s", error)
