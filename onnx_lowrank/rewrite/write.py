"""Write a model so that it is either there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from onnx_lowrank.errors import OutputError


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse early what could not be written after a long conversion.

    Raises:
        OutputError: the file exists and ``force`` is not set, its folder is missing or not writable, or it is a folder.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, wanted a file name: add one")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already: choose another name, or overwrite it with --force")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: folder '{path.parent}' does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: folder '{path.parent}' is not writable: choose another, or change its permissions")


@contextlib.contextmanager
def staged(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Write a model beside its final place; rename it there when the block ends well, remove it when it does not.

    Args:
        model: what to write.
        path: its final place.

    Yields:
        The temporary file, to be looked at before it becomes final.

    Raises:
        OutputError: it cannot be written, for example because the disk is full.
    """
    with _explained(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _explained(path):
            _write(model, temporary)
        yield temporary
        with _explained(path):
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def set_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Set metadata properties of a model; others stay."""
    known = {each.key: each for each in model.metadata_props}
    for key, value in entries.items():
        if key in known:
            known[key].value = value
        else:
            model.metadata_props.add(key=key, value=value)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _explained(path):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(model: onnx.ModelProto, file: Path) -> None:
    """Serialize a model into a file and make sure it has reached the disk."""
    with file.open("wb") as stream:
        stream.write(model.SerializeToString())
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say which file it was that could not be written."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}): free some space or choose another place"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
