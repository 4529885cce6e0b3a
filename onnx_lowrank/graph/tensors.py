"""Read and move the values of tensors: inside the model, or in files where they are too large for one message.

A protobuf message holds at most 2 GiB. Weights of larger models are external data: the tensor names a file, an offset
and a length. Once a model has been read, its tensors name the file by its absolute path; `values` reads it. Whoever
needs the values at the same time shares them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.linalg.array_file import ArrayFile

_in_use: WeakValueDictionary[tuple[Any, ...], NDArray[Any]] = WeakValueDictionary()  # values that somebody holds
_MAPPED = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


def every_tensor(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a model that hold values: initializers and attributes, also of subgraphs and functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a node: branches of If, bodies of Loop and Scan."""
    for each in node.attribute:
        yield from [each.g] if each.HasField("g") else each.graphs


def is_external(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor's values are in a file of their own."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def can_be_mapped(tensor: onnx.TensorProto, length: int) -> bool:
    """Return whether ``length`` bytes of a file can be used as the tensor's array without conversion."""
    return tensor.data_type in _MAPPED and length == _count(tensor) * _dtype(tensor).itemsize


def values(tensor: onnx.TensorProto) -> NDArray[Any]:
    """Return the values of a tensor, shape as its dims; read from its file where they are not in the model.

    Raises:
        ModelError: they are not in the file any more.
    """
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    fields = {each.key: each.value for each in tensor.external_data}
    file, offset, dtype, shape = fields["location"], int(fields["offset"]), _dtype(tensor), tuple(tensor.dims)
    try:
        with Path(file).open("rb") as stream:
            state = os.fstat(stream.fileno())
            key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, offset, dtype, shape)
            if (array := _in_use.get(key)) is None:
                array = _in_use[key] = ArrayFile(stream).read(offset, dtype, shape)
                array.flags.writeable = False
    except (EOFError, OSError) as error:
        raise ModelError(
            f"tensor '{tensor.name}': external data file '{file}' cannot be read any more ({error}), and was whole "
            "when the model was opened: leave it alone until the run has ended"
        ) from error
    return array


def put_outside(tensor: onnx.TensorProto, location: Path | str, offset: int, length: int) -> None:
    """Make a tensor take its values from a file, ``length`` bytes from ``offset`` on."""
    tensor.ClearField("raw_data")
    for field in ("float_data", "double_data", "int32_data"):
        tensor.ClearField(field)
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))


def put_inside(tensor: onnx.TensorProto, content: bytes) -> None:
    """Make a tensor hold its values itself."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = content


def stored_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all values of a model, in the model and in files."""
    return sum(_stored(tensor) for tensor in every_tensor(model))


def _stored(tensor: onnx.TensorProto) -> int:
    return _count(tensor) * _dtype(tensor).itemsize if is_external(tensor) else tensor.ByteSize()


def _count(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def _dtype(tensor: onnx.TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for each in node.attribute:
            if each.HasField("t"):
                yield each.t
            yield from each.tensors
            for sparse in [each.sparse_tensor] if each.HasField("sparse_tensor") else each.sparse_tensors:
                yield from (sparse.values, sparse.indices)
        for graph in subgraphs(node):
            yield from _of_graph(graph)
