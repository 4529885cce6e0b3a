"""The numbers of a graph as tensors of a module: which are trained, and under which names.

A weight is known by the name of its initializer. Dots in it become nested modules, as PyTorch wants them, so the keys
of the module's state are the initializers' names; the few names that PyTorch has no way to hold get another key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.tensors import values

# The inputs of operators that are learned. Scales and means of BatchNormalization behind them stay as they are.
_LEARNED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
}
_SCALED = ("Mul", "Div")  # a normalization written out ends in one
_NO_BIAS_BEFORE = {"Clip", "Sqrt", "Pow", "Reciprocal", "Min", "Max"}  # a written out hard-swish adds 3 before Clip
_PASSED_ON = ("Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Cast")
_FLOATS = {"float16", "bfloat16", "float32", "float64"}


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that a graph holds.

    Attributes:
        name: of the initializer, or of the output of a Constant node.
        tensor: its place in the model.
    """

    name: str
    tensor: onnx.TensorProto

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.is_float_type(self.tensor.data_type)

    @staticmethod
    def is_float_type(kind: int) -> bool:
        """Whether a type of ONNX is one of floating-point numbers."""
        return kind != onnx.TensorProto.STRING and onnx.helper.tensor_dtype_to_np_dtype(kind).name in _FLOATS

    def to_torch(self) -> Tensor:
        """Its values, shape as in the graph."""
        return tensor_of(values(self.tensor))


def constants(graph: onnx.GraphProto) -> Iterator[Constant]:
    """Every tensor that a graph holds: initializers, and the values of Constant nodes.

    Raises:
        ModelError: one is kept as a sparse tensor.
    """
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(
            f"tensor '{name}': it is stored as a sparse one, which cannot be trained: store it as a dense one"
        )
    for initializer in graph.initializer:
        yield Constant(initializer.name, initializer)
    for node in graph.node:
        if node.op_type != "Constant" or not node.attribute:
            continue
        value = node.attribute[0]
        if value.name == "value":
            yield Constant(node.output[0], value.t)
        elif value.name in {"value_int", "value_ints"}:
            numbers = np.array(onnx.helper.get_attribute_value(value), dtype=np.int64)
            yield Constant(node.output[0], onnx.numpy_helper.from_array(numbers))


def learned(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the constants that training changes: weights and biases, no statistics and no settings."""
    biases = _biases(graph)
    found: set[str] = set()
    wanted = {value.name for value in graph.output}
    for node in reversed(graph.node):  # so that what a tensor is used for is known when the node that makes it comes
        if wanted.isdisjoint(node.output):
            continue  # nothing comes of it, so there is nothing to learn for it
        wanted.update(node.input)
        if node.op_type in _PASSED_ON and node.output[0] in found:
            found.add(node.input[0])
        places = [place for place in _LEARNED.get(node.op_type, ()) if place < len(node.input)]
        found.update(node.input[place] for place in places)
        if node.op_type == "Add":
            found.update(biases & set(node.input))
    return frozenset(each.name for each in constants(graph) if each.name in found and each.is_float)


def _biases(graph: onnx.GraphProto) -> set[str]:
    """The inputs of Add that are biases: beside what a layer or a scale makes, and no parts of functions."""
    makers = {name: node for node in graph.node for name in node.output}
    parts = {name for node in graph.node if node.op_type in _NO_BIAS_BEFORE for name in node.input}
    sizes, count = _sizes(graph), {each.name: np.prod(each.tensor.dims) for each in constants(graph)}
    found = set()
    for node in graph.node:
        if node.op_type != "Add" or node.output[0] in parts:
            continue
        for name, other in zip(node.input, reversed(node.input), strict=True):
            kind = _kind_behind(other, makers)
            if other not in sizes and (kind in _LEARNED or (kind in _SCALED and count.get(name, 2) > 1)):
                found.add(name)
    return found


def _kind_behind(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The operator that makes a tensor, but for those that change its shape alone."""
    while (node := makers.get(name)) is not None and node.op_type in _PASSED_ON:
        name = node.input[0]
    return "" if node is None else str(node.op_type)


def _sizes(graph: onnx.GraphProto) -> set[str]:
    """Tensors that are worked out from shapes and constants alone."""
    known = {each.name for each in constants(graph)}
    for node in graph.node:
        if node.op_type in {"Shape", "Size"} or known.issuperset(filter(None, node.input)):
            known.update(node.output)
    return known


def state_keys(names: Iterable[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """The keys under which a module holds tensors: their names, wherever PyTorch can have such a key.

    It cannot where a name has an empty part between dots, is the name of a method of modules, or a part of it is a
    tensor already.

    Args:
        names: of the constants, in the order of the graph.
        reserved: names that the module has other uses for.
    """
    root = _Folder()
    keys = {}
    for name in names:
        key = name
        while key.partition(".")[0] in reserved or not _has_room(root, key):
            key = key.replace(".", "_") + "_"
        put(root, key, nn.Buffer(torch.empty(0)))
        keys[name] = key
    return keys


def put(root: nn.Module, key: str, tensor: nn.Parameter | nn.Buffer) -> None:
    """Give a module a tensor under a key whose dots are nested modules."""
    *folders, last = key.split(".")
    for part in folders:
        if part not in root._modules:
            root.add_module(part, _Folder())
        root = root._modules[part] or root
    setattr(root, last, tensor)


def look_up(root: nn.Module, key: str) -> Tensor:
    """The tensor that a module holds under a key."""
    *folders, last = key.split(".")
    for part in folders:
        root = root._modules[part] or root
    found: Tensor = getattr(root, last)
    return found


def tensor_of(array: NDArray[np.generic]) -> Tensor:
    """An array as a tensor that shares no memory with it; shape and type stay."""
    if array.dtype.name == "bfloat16":  # which numpy has from elsewhere, and torch does not take
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def array_of(tensor: Tensor, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """A tensor as an array of another floating-point type, rounded or infinite where that is narrower."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    with np.errstate(over="ignore"):
        return tensor.numpy().astype(dtype)


class _Folder(nn.Module):
    """A part of a name that ends with a dot."""


def _has_room(root: nn.Module, key: str) -> bool:
    parts = key.split(".")
    for number, part in enumerate(parts):
        if not part:
            return False
        if number + 1 < len(parts) and part in root._modules:
            root = root._modules[part] or root
        elif hasattr(root, part):
            return False
        else:
            root = _Folder()
    return True
