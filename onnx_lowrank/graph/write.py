"""Write files atomically: a model or a text is there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx

from onnx_lowrank.errors import OutputError
from onnx_lowrank.graph.tensors import can_be_mapped, is_external, put_inside, put_outside, stored_bytes, values

MAX_FILE_BYTES = 2**31 - 2**24  # of values; a protobuf message holds at most 2 GiB
ALIGNMENT_BYTES = 4096  # of data in files, so that they can be mapped


def check_writable(path: Path, *, force: bool) -> None:
    """Check before a long conversion that its result can be written.

    Raises:
        OutputError: the file exists and ``force`` is not set, its folder is missing or not writable, or it is a folder.
    """
    with _explained(path):  # the name may be too long for the file system
        exists, is_file, has_folder = path.exists(), path.is_file(), path.parent.is_dir()
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, wanted a file name: add one")
    if exists and not is_file:
        raise OutputError(f"{path}: is a device or a pipe, which renaming would replace: choose the name of a file")
    if exists and not force:
        raise OutputError(f"{path}: exists already: choose another name, or overwrite it with `force`")
    if not has_folder:
        raise OutputError(f"{path}: folder '{path.parent}' does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: folder '{path.parent}' is not writable: choose another, or change its permissions")


@contextlib.contextmanager
def staged(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Write a model to a temporary file; rename it to ``path`` when the block succeeds, remove it when it fails.

    Weights of a model that does not fit into one file go into a second one, ``NAME.data``.

    Args:
        model: what to write.
        path: final path.

    Yields:
        The temporary file, in a folder of its own next to ``path``, to be verified before it becomes final.

    Raises:
        OutputError: it cannot be written, for example because the disk is full.
    """
    with _explained(path):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        file = folder / path.name
        with _explained(path):
            _write(model, file)
        yield file
        with _explained(path):
            _publish(file, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write; it is renamed to ``path`` when the block succeeds, removed when it fails.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _explained(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_apart(model: onnx.ModelProto, path: Path) -> None:
    """Check that the data file of ``path`` is not one that the model's own weights are read from.

    Raises:
        OutputError: it is one of them.
    """
    data = str(_data_file(path).resolve())
    for tensor in model.graph.initializer:
        if any(each.key == "location" and each.value == data for each in tensor.external_data):
            raise OutputError(
                f"{path}: its weights would go to '{Path(data).name}', which holds those of the model that is read: "
                "choose another name"
            )


def set_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Set metadata properties of a model; others stay."""
    properties = {each.key: each for each in model.metadata_props}
    for key, value in entries.items():
        if key in properties:
            properties[key].value = value
        else:
            model.metadata_props.add(key=key, value=value)


@contextlib.contextmanager
def staged_text(path: Path, text: str) -> Iterator[None]:
    """Write a text to a temporary file; rename it to ``path`` when the block succeeds, remove it when it fails.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _explained(path):
            temporary.write_text(text, encoding="utf-8")
        yield
        with _explained(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        OutputError: it cannot be written.
    """
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files of which each is there whole or not at all, and none where one cannot be written.

    Args:
        texts: contents by path.

    Raises:
        OutputError: one of them cannot be written.
    """
    with contextlib.ExitStack() as staged_files:
        for path, text in texts.items():
            staged_files.enter_context(staged_text(path, text))


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder where there is none; it goes away again where the block fails with nothing in it.

    Args:
        folder: to make.

    Raises:
        OutputError: it cannot be made.
    """
    new = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}): choose another place") from error
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
        raise


def _write(model: onnx.ModelProto, file: Path) -> None:
    """Write a model to a file, its weights to a second one where they are too large, and flush both to the disk."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if stored_bytes(model) > MAX_FILE_BYTES:
        with _to_disk(_data_file(file)) as stream:
            for tensor in copy.graph.initializer:
                _move_outside(tensor, stream, _data_file(file).name)
    for tensor in copy.graph.initializer:
        if is_external(tensor) and tensor.external_data[0].value != _data_file(file).name:
            put_inside(tensor, values(tensor).tobytes())
    with _to_disk(file) as stream:
        stream.write(copy.SerializeToString())


def _move_outside(tensor: onnx.TensorProto, stream: BinaryIO, name: str) -> None:
    """Append the values of a large tensor to the data file, and make the tensor refer to them."""
    numbers = values(tensor)
    if numbers.nbytes < ALIGNMENT_BYTES or not can_be_mapped(tensor, numbers.nbytes):
        return
    stream.seek(-(-stream.tell() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    put_outside(tensor, name, stream.tell(), numbers.nbytes)
    numbers.tofile(stream)


@contextlib.contextmanager
def _to_disk(file: Path) -> Iterator[BinaryIO]:
    with file.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _publish(file: Path, path: Path) -> None:
    """Rename a model and its data to their final names, the model last; where that fails, restore the old data."""
    mode = 0o666 & ~_umask()
    data, old = _data_file(file), file.with_name("old")
    if data.exists():
        data.chmod(mode)
        with contextlib.suppress(FileNotFoundError):
            _data_file(path).rename(old)
        data.replace(_data_file(path))
    try:
        file.chmod(mode)
        file.replace(path)
    except OSError:
        if old.exists():
            old.replace(_data_file(path))
        raise


def _data_file(path: Path) -> Path:
    """Return the path of the second file, for weights that do not fit into the first."""
    return path.with_name(f"{path.name}.data")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into an OutputError that names the file."""
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
