"""Rank plans and reports on the disk, checked before a conversion starts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from onnx_lowrank.errors import OutputError, RankError
from onnx_lowrank.graph import check_writable
from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.report import check_page_packages

_REPORT_ENDINGS = (".json", ".md", ".html")


def check_outputs(
    reads: Sequence[Path], output: Path | None, *, force: bool, others: Sequence[Path], table: Path | None = None
) -> None:
    """Refuse early what could not be written after a long conversion, or would destroy something.

    Args:
        reads: the files that are read, the model first.
        output: the converted model; None where none is written.
        force: overwrite ``output``.
        others: plan and reports, which replace older ones.
        table: of latencies; one that is there already is read, and may need no writing.

    Raises:
        OutputError: a file is another's too, exists already or cannot be written where it is to be.
    """
    if output is not None:
        if _same(reads[0], output):
            raise OutputError(f"{output}: is the model that is read, which is never written: choose another name")
        check_writable(output, force=force)
    for path in [*others, *([] if output is None else [output])]:
        if any(_same(path, each) for each in reads):
            raise OutputError(f"{path}: is read too, and would be written over: choose another name")
    taken = [reads[0]] if output is None else [reads[0], output]
    for path in [*others, *([] if table is None else [table])]:
        if any(_same(path, other) for other in taken):
            raise OutputError(f"{path}: is to hold two different files: give each its own name")
        if path is not table or not path.is_file():
            check_writable(path, force=True)
        taken.append(path)


def check_folder(folder: Path, names: Sequence[str], *, force: bool) -> None:
    """Refuse early a folder that files could not be written into.

    Args:
        folder: made if need be.
        names: of the files.
        force: overwrite them.

    Raises:
        OutputError: it is no folder, cannot be made, or has one of the files already.
    """
    if folder.is_dir():
        for name in names:
            check_writable(folder / name, force=force)
    elif folder.exists():
        raise OutputError(f"{folder}: is a file, wanted a folder: choose another name")
    else:
        check_writable(folder, force=False)


def check_report_ending(path: Path) -> None:
    """Refuse a report in a format that there is not, or that cannot be made here.

    Raises:
        OutputError: the ending is none of those known.
        MissingDependencyError: a package that makes pages is not installed.
    """
    if path.suffix.lower() not in _REPORT_ENDINGS:
        found = f"ends in '{path.suffix}'" if path.suffix else "has no ending"
        raise OutputError(
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
    with contextlib.suppress(OSError):  # one of them does not exist
        return path.samefile(other)
    return path.absolute() == other.absolute()
