"""A folder for what converters write; it vanishes, also where the command is interrupted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_lowrank import interruption
from onnx_lowrank.errors import OutputError


@contextmanager
def staging_folder() -> Iterator[Path]:
    """Make a folder among the temporary files, and remove it with all that is in it after the block.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="onnx-lowrank-"))
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: cannot be written ({error.strerror}): set the variable TMPDIR to another place"
        ) from error
    with interruption.cleaned_up(lambda: shutil.rmtree(folder, ignore_errors=True)):
        yield folder


def new_folder(folder: Path) -> Path:
    """Make a folder and return it."""
    folder.mkdir()
    return folder


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove what a converter left on its way, which may be several times as large as the network.

    Args:
        folder: where it ran.
        names: of files that are needed.
    """
    for entry in folder.iterdir():
        if entry.name in names:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
