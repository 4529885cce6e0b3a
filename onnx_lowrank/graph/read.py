"""A path -> an ONNX model with its weights, in memory but for those of very large ones."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.order import sort_nodes
from onnx_lowrank.graph.tensors import can_be_mapped, every_tensor, is_external, put_inside, put_outside

MOST_IN_MEMORY = 2**30  # bytes of external data that are read into the model


def read_model(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Read a model; a model already in memory is copied, never changed.

    Args:
        model: path of an ``.onnx`` file, external data beside it, or a model.

    Returns:
        The model, its nodes in order, external weights loaded; where they are more than `MOST_IN_MEMORY`, its
        initializers stay outside and name their file by its absolute path.

    Raises:
        ModelError: no such file, not an ONNX model, truncated, external data missing or outside the model's folder, or
            nodes that wait for each other.
    """
    if isinstance(model, onnx.ModelProto):
        if any(map(is_external, every_tensor(model))):
            raise ModelError("model in memory: some of its weights are in other files: save it and pass its path")
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        sort_nodes(copy.graph, "model in memory")
        return copy
    path = Path(model)
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ModelError(f"{path}: cannot be the name of a file ({error}): check the path") from error
    if not found:
        kind = "a folder" if path.is_dir() else "no such file"
        raise ModelError(f"{path}: {kind}, wanted an ONNX model: check the path")
    try:
        loaded = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX model or truncated ({error}): export or copy it again") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): check its permissions") from error
    if not loaded.graph.node or not loaded.graph.output or not loaded.ir_version:
        raise ModelError(f"{path}: not an ONNX model (no graph in it): export or copy it again")
    _load_external_data(loaded, path)
    sort_nodes(loaded.graph, str(path))
    return loaded


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Bring weights kept in files of their own into the model; where they are very many, their initializers stay there.

    Only files in the model's folder are read.
    """
    found = [(tensor, _place(tensor, path)) for tensor in every_tensor(model) if is_external(tensor)]
    many = sum(length for _, (_, _, length) in found) > MOST_IN_MEMORY
    initializers = {tensor.name for tensor in model.graph.initializer}
    for tensor, (file, offset, length) in found:
        if many and length and tensor.name in initializers and can_be_mapped(tensor, length):
            put_outside(tensor, file, offset, length)
            continue
        with file.open("rb") as stream:
            stream.seek(offset)
            put_inside(tensor, stream.read(length))


def _place(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's external data.

    Raises:
        ModelError: outside of the model's folder, missing, too short, or not to be understood.
    """
    folder = path.parent.resolve()
    fields = {each.key: each.value for each in tensor.external_data}
    location = fields.get("location", "")
    try:
        file = (folder / location).resolve()
        inside = not Path(location).is_absolute() and file.is_relative_to(folder)
        size = file.stat().st_size if inside and file.is_file() else None
        offset = int(fields.get("offset") or 0)
        length = int(fields.get("length") or max(0, (size or 0) - offset))
    except (ValueError, OSError) as error:  # no numbers, or no name that a file can have
        raise _unreadable(path, tensor, str(error)) from error
    if not inside:
        raise ModelError(
            f"{path}: tensor '{tensor.name}' keeps its data in '{location}', outside the model's folder: "
            "only files beside the model are read; move the file there and correct the path"
        )
    if size is None:
        raise ModelError(
            f"{path}: external data file '{location}' of tensor '{tensor.name}' is missing: put it beside the model"
        )
    if min(offset, length) < 0 or offset + length > size:
        raise _unreadable(path, tensor, f"'{location}' has {size} bytes, wanted {length} from byte {offset} on")
    return file, offset, length


def _unreadable(path: Path, tensor: onnx.TensorProto, found: str) -> ModelError:
    return ModelError(
        f"{path}: external data of tensor '{tensor.name}' cannot be read ({found}): copy the model and its data again"
    )
