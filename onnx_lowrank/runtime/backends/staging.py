"""A folder for what converters write; it vanishes, also where the command is interrupted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_lowrank.graph.publication import Publication, explained


@contextmanager
def staging_folder() -> Iterator[Path]:
    """Make a folder among the temporary files; it vanishes after the block, or when the command is interrupted.

    What a killed process has left is removed by the next one, as everywhere.

    Raises:
        OutputError: it cannot be made.
    """
    with Publication(is_result=False) as publication:
        with explained(Path(tempfile.gettempdir())):
            folder = publication.temporary("").parent
        yield folder


def subfolder(folder: Path, name: str) -> Path:
    """Make a folder inside another one and return it."""
    inner = folder / name
    inner.mkdir()
    return inner


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
