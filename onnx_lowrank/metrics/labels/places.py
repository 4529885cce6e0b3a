"""Where labels lie, and which of their entries belongs to an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from onnx_lowrank.errors import CalibrationError

Entry = TypeVar("Entry")


def find_file(source: Path | None, names: Sequence[str], given: Path | None) -> Path | None:
    """Return the first file of labels that exists.

    Args:
        source: folder or archive of the images; None where there is none.
        names: of the file by convention: in the folder, or beside the archive.
        given: its path, where the user gives it.

    Raises:
        CalibrationError: the given path does not exist.
    """
    if given is not None:
        if not given.exists():
            raise CalibrationError(f"labels {given}: no such file or folder: check the path")
        return given
    if source is None:
        return None
    folder = source if source.is_dir() else next(parent for parent in source.parents if parent.is_dir())
    return next((folder / name for name in names if (folder / name).is_file()), None)


def entries_by_name(entries: Mapping[str, Entry], images: Iterable[str | None], file: Path) -> list[Entry]:
    """Return the entry of each image: that of its path inside the folder, or of its file's name alone.

    Args:
        entries: by the name that the file gives.
        images: path of each image inside its folder; None for one that is no file.
        file: of the entries, for messages.

    Raises:
        CalibrationError: an image has no entry, or is no file.
    """
    by_file: dict[str, Entry | None] = {}
    for name, entry in entries.items():
        key = name.rpartition("/")[2]
        by_file[key] = None if key in by_file else entry  # a name in two folders says nothing of either
    found: list[Entry] = []
    missing: list[str] = []
    total = 0
    for image in images:
        total += 1
        if image is None:
            raise CalibrationError(f"{file}: samples of arrays have no names to look up: pass a folder of images")
        match = entries[image] if image in entries else by_file.get(image.rpartition("/")[2])
        if match is None:
            missing.append(image)
        else:
            found.append(match)
    if missing:
        raise CalibrationError(
            f"{file}: no entry for {len(missing)} of {total} images, '{missing[0]}' for one; it names "
            f"{_some(entries)}: add the entries, or leave out the images"
        )
    return found


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(repr(name) for name in listed[:2]) + (", ..." if len(listed) > 2 else "") if listed else "none"
