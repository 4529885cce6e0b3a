"""Files that commands read and write: checked before a conversion starts, rank plans read, reports formatted."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import click

from onnx_lowrank.errors import OutputError, RankError
from onnx_lowrank.graph import check_writable
from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.report import check_page_packages

_REPORT_ENDINGS = (".json", ".md", ".html")


def check_outputs(
    model: Path,
    output: Path | None,
    *,
    inputs: Sequence[Path],
    reports: Sequence[Path],
    force: bool,
    latency_table: Path | None = None,
) -> None:
    """Raise early for what could not be written after a long conversion, or would destroy a file.

    Args:
        model: the model that is read.
        output: the converted model; None where none is written.
        inputs: other files that are read.
        reports: files written beside the model, rank plans among them; they replace older ones.
        force: overwrite ``output``.
        latency_table: an existing one is read, and may need no writing.

    Raises:
        OutputError: a file is also another one, exists already or cannot be written at its path.
    """
    if output is not None:
        if _same(model, output):
            raise OutputError(f"{output}: is the model that is read, which is never written: choose another name")
        check_writable(output, force=force)
    for path in [*reports, *([] if output is None else [output])]:
        if any(_same(path, source) for source in [model, *inputs]):
            raise OutputError(f"{path}: is read too, and would be written over: choose another name")
    taken = [model] if output is None else [model, output]
    for path in [*reports, *([] if latency_table is None else [latency_table])]:
        if any(_same(path, other) for other in taken):
            raise OutputError(f"{path}: is to hold two different files: give each its own name")
        if path is not latency_table or not path.is_file():
            check_writable(path, force=True)
        taken.append(path)


def check_report_ending(path: Path) -> None:
    """Raise for a report whose format is unknown, or cannot be made here.

    Raises:
        click.UsageError: unknown file name ending.
        MissingDependencyError: a package that pages need is not installed.
    """
    if path.suffix.lower() not in _REPORT_ENDINGS:
        found = f"ends in '{path.suffix}'" if path.suffix else "has no ending"
        raise click.UsageError(
            f"--report {path}: {found}, {', '.join(_REPORT_ENDINGS[:-1])} or {_REPORT_ENDINGS[-1]} is wanted: rename it"
        )
    if path.suffix.lower() == ".html":
        check_page_packages(f"--report {path}")


def read_plan(path: Path) -> RankPlan:
    """Read a rank plan.

    Raises:
        RankError: there is no such file, it cannot be read, or it holds no plan.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RankError(f"--plan {path}: cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise RankError(f"--plan {path}: not a text file: write one with --save-plan") from error
    return RankPlan.from_json(text, f"--plan {path}")


def _same(path: Path, other: Path) -> bool:
    """Return whether two paths name the same file, which need not exist."""
    with contextlib.suppress(OSError):  # one of them does not exist
        return path.samefile(other)
    return path.absolute() == other.absolute()
