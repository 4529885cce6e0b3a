"""Write files atomically: a model or a text is there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx

from onnx_lowrank import interruption
from onnx_lowrank.errors import OutputError, check_name
from onnx_lowrank.graph.publication import Publication, explained, final_place
from onnx_lowrank.graph.tensors import can_be_mapped, is_external, put_inside, put_outside, stored_bytes, values

MAX_FILE_BYTES = 2**31 - 2**24  # of values; a protobuf message holds at most 2 GiB
ALIGNMENT_BYTES = 4096  # of data in files, so that they can be mapped


def check_writable(path: Path, *, force: bool) -> None:
    """Check before a long conversion that its result can be written: to a path, or through a link to where it leads.

    Raises:
        OutputError: the file exists and ``force`` is not set, its folder is missing or not writable, or it is a folder.
    """
    with explained(path):
        check_name(path)
        folder = final_place(path).parent
        exists, is_file, has_folder = path.exists(), path.is_file(), folder.is_dir()
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, wanted a file name: add one")
    if exists and not is_file:
        raise OutputError(f"{path}: is a device or a pipe, which renaming would replace: choose the name of a file")
    if exists and not force:
        raise OutputError(f"{path}: exists already: choose another name, or overwrite it with `force`")
    if not has_folder:
        raise OutputError(f"{path}: folder '{folder}' does not exist: make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: folder '{folder}' is not writable: choose another, or change its permissions")


@contextlib.contextmanager
def staged(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Write a model to a temporary file; rename it to ``path`` when the block succeeds, remove it when it fails.

    Args:
        model: what to write, as `write_model` does.
        path: final path.

    Yields:
        The temporary file, in a folder of its own next to ``path``, to be verified before it becomes final.

    Raises:
        OutputError: it cannot be written, for example because the disk is full.
    """
    with Publication() as publication:
        yield write_model(model, path, publication)


def write_model(model: onnx.ModelProto, path: Path | None, publication: Publication) -> Path:
    """Write a model to a file that becomes final with the publication, and return that.

    Weights of a model that does not fit into one file go into a second one, ``NAME.data``.

    Args:
        model: what to write.
        path: final path; None for a file that vanishes with the publication.
        publication: what it becomes final with.

    Raises:
        OutputError: it cannot be written, for example because the disk is full.
    """
    with explained(path or Path(tempfile.gettempdir())):
        if path is None:
            file = publication.temporary(".onnx")
        else:
            if stored_bytes(model) > MAX_FILE_BYTES:
                publication.add(_data_file(final_place(path)))
            file = publication.add(path)
        save_model(model, file)
    return file


def check_not_read(path: Path, model: str | Path | onnx.ModelProto) -> None:
    """Check that a file to be written is not the model that is read, links followed.

    Raises:
        OutputError: it is.
    """
    if isinstance(model, onnx.ModelProto):
        return
    with contextlib.suppress(OSError, ValueError):  # one of them does not exist, or cannot
        if path.samefile(model):
            raise OutputError(f"{path}: is the model that is read, which is never written: choose another name")


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write; it is renamed to ``path`` when the block succeeds, removed when it fails.

    Raises:
        OutputError: it cannot be written.
    """
    with Publication() as publication:
        file = publication.add(path)
        with explained(path):
            yield file


def check_apart(model: onnx.ModelProto, path: Path) -> None:
    """Check that the data file of ``path`` is not one that the model's own weights are read from.

    Raises:
        OutputError: it is one of them.
    """
    data = str(_data_file(final_place(path)).resolve())
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


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files of which each is there whole or not at all, and none where one cannot be written.

    Args:
        texts: contents by path.

    Raises:
        OutputError: one of them cannot be written.
    """
    with Publication() as publication:
        add_texts(texts, publication)


def add_texts(texts: Mapping[Path, str], publication: Publication) -> None:
    """Write text files that become final with the publication.

    Args:
        texts: contents by path.
        publication: what they become final with.

    Raises:
        OutputError: one of them cannot be written.
    """
    for path, text in texts.items():
        file = publication.add(path)
        with explained(path):
            file.write_text(text, encoding="utf-8")


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

    def remove_if_empty() -> None:
        if new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()

    with interruption.cleaned_up(remove_if_empty):
        yield


def save_model(model: onnx.ModelProto, file: Path) -> None:
    """Write a model to a file, its weights to a second one where they are too large."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if stored_bytes(model) > MAX_FILE_BYTES:
        with _data_file(file).open("wb") as stream:
            for tensor in copy.graph.initializer:
                _move_outside(tensor, stream, _data_file(file).name)
    for tensor in copy.graph.initializer:
        if is_external(tensor) and tensor.external_data[0].value != _data_file(file).name:
            put_inside(tensor, values(tensor).tobytes())
    file.write_bytes(copy.SerializeToString())


def _move_outside(tensor: onnx.TensorProto, stream: BinaryIO, name: str) -> None:
    """Append the values of a large tensor to the data file, and make the tensor refer to them."""
    numbers = values(tensor)
    if numbers.nbytes < ALIGNMENT_BYTES or not can_be_mapped(tensor, numbers.nbytes):
        return
    stream.seek(-(-stream.tell() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    put_outside(tensor, name, stream.tell(), numbers.nbytes)
    numbers.tofile(stream)


def _data_file(path: Path) -> Path:
    """Return the path of the second file, for weights that do not fit into the first."""
    return path.with_name(f"{path.name}.data")
