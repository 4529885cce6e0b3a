"""Read an ONNX model and its weights; very large weights stay in their files."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_lowrank.errors import ModelError, check_name
from onnx_lowrank.graph.order import sort_nodes
from onnx_lowrank.graph.tensors import can_be_mapped, every_tensor, is_external, put_inside, put_outside, values

MAX_LOADED_BYTES = 2**30  # of external data; more of it stays in its files


def read_model(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Read a model; a model already in memory is copied, never changed.

    Args:
        model: path of an ``.onnx`` file, with external data next to it, or a model.

    Returns:
        The model, its nodes sorted, external weights loaded; where they are more than `MAX_LOADED_BYTES`, its
        initializers stay outside and name their file by its absolute path. An initializer that stands twice with the
        same values is left once.

    Raises:
        ModelError: no such file, not an ONNX model, truncated, external data missing or outside the model's folder,
            nodes that depend on each other in a circle, or two initializers of one name that differ.
    """
    if isinstance(model, onnx.ModelProto):
        if any(map(is_external, every_tensor(model))):
            raise ModelError("model in memory: some of its weights are in other files: save it and pass its path")
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        sort_nodes(copy.graph, "model in memory")
        _drop_repeated_initializers(copy.graph, "model in memory")
        return copy
    path = Path(model)
    try:
        check_name(path)
        exists = path.is_file()
    except (OSError, ValueError) as error:  # not a valid file name
        raise ModelError(f"{path}: cannot be the name of a file ({error}): check the path") from error
    if not exists:
        kind = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "no such file"
        remedy = "write it to a file first" if kind == "a pipe or a device" else "check the path"
        raise ModelError(f"{path}: {kind}, wanted an ONNX model: {remedy}")
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
    _drop_repeated_initializers(loaded.graph, str(path))
    return loaded


def _drop_repeated_initializers(graph: onnx.GraphProto, where: str) -> None:
    """Remove initializers that stand twice with the same values.

    Args:
        graph: changed in place.
        where: name of the model in error messages.

    Raises:
        ModelError: two of one name differ: runtimes do not agree on which counts.
    """
    seen: dict[str, onnx.TensorProto] = {}
    repeated = []
    for position, tensor in enumerate(graph.initializer):
        first = seen.setdefault(tensor.name, tensor)
        if first is tensor:
            continue
        one, other = values(first), values(tensor)
        if (one.dtype, one.shape, one.tobytes()) != (other.dtype, other.shape, other.tobytes()):
            raise ModelError(
                f"{where}: initializer '{tensor.name}' stands in it twice with different values, one is wanted: "
                "remove the wrong one, or export the model again"
            )
        repeated.append(position)
    for position in reversed(repeated):
        del graph.initializer[position]


def input_names(path: Path) -> tuple[str, ...]:
    """Return the names of a model's inputs, those that are initializers left out; none where it cannot be read."""
    try:
        graph = onnx.load(path, format="protobuf", load_external_data=False).graph if path.is_file() else None
    except (DecodeError, ValueError, OSError):
        return ()
    constant = set() if graph is None else {tensor.name for tensor in graph.initializer}
    return () if graph is None else tuple(value.name for value in graph.input if value.name not in constant)


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Load external data into the model; where it is very large, initializers stay in their files.

    Only files in the model's folder are read; where the model is a link, as in a download cache, also those in the
    folder that it leads to, if the model's folder has a link to them.
    """
    external = [(tensor, _location(tensor, path)) for tensor in every_tensor(model) if is_external(tensor)]
    is_large = sum(length for _, (_, _, length) in external) > MAX_LOADED_BYTES
    initializers = {tensor.name for tensor in model.graph.initializer}
    for tensor, (file, offset, length) in external:
        if is_large and length and tensor.name in initializers and can_be_mapped(tensor, length):
            put_outside(tensor, file, offset, length)
            continue
        with file.open("rb") as stream:
            stream.seek(offset)
            put_inside(tensor, stream.read(length))


def _location(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """Return file, offset and length of a tensor's external data.

    Raises:
        ModelError: the file is outside the model's folder, missing or too short, or the entries are malformed.
    """
    folder = path.parent.resolve()
    fields = {each.key: each.value for each in tensor.external_data}
    location = fields.get("location", "")
    try:
        file = (folder / location).resolve()
        inside = not Path(location).is_absolute() and (
            file.is_relative_to(folder) or (_stays_below(location) and file.is_relative_to(path.resolve().parent))
        )
        size = file.stat().st_size if inside and file.is_file() else None
        offset = int(fields.get("offset") or 0)
        length = int(fields.get("length") or max(0, (size or 0) - offset))
    except (ValueError, OSError) as error:  # not a number, or not a valid file name
        raise _unreadable(path, tensor, str(error)) from error
    if not inside and _stays_below(location):
        raise ModelError(
            f"{path}: tensor '{tensor.name}' keeps its data in '{location}', which is a link to '{file}', outside the "
            f"model's folder ({' and '.join(dict.fromkeys(map(str, (folder, path.resolve().parent))))}): only "
            "files there are read; put the file itself in the place of the link"
        )
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


def _stays_below(location: str) -> bool:
    """Return whether a relative path leads nowhere above its start, links aside."""
    return not Path(location).is_absolute() and ".." not in Path(os.path.normpath(location)).parts


def _unreadable(path: Path, tensor: onnx.TensorProto, reason: str) -> ModelError:
    return ModelError(
        f"{path}: external data of tensor '{tensor.name}' cannot be read ({reason}): copy the model and its data again"
    )
