"""The constants of a graph as tensors of a module: which are trained, and under which keys.

A weight has the name of its initializer as key. Dots in it become nested modules, as PyTorch requires, so the keys of
the state are the initializers' names; the few names that PyTorch does not accept get another key.
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

# Positions of the inputs of operators that are trained. Statistics of BatchNormalization, further behind, are not.
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
_SCALED = ("Mul", "Div")  # a normalization made of single operators ends in one
_NO_BIAS_BEFORE = {
    "Clip",
    "Sqrt",
    "Pow",
    "Reciprocal",
    "Min",
    "Max",
}  # a hard-swish made of single operators adds 3 before Clip
_PASSED_ON = ("Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Cast")
_FLOATS = {"float16", "bfloat16", "float32", "float64"}


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant tensor of a graph.

    Attributes:
        name: of the initializer, or of the output of a Constant node.
        tensor: the tensor in the model itself, not a copy.
    """

    name: str
    tensor: onnx.TensorProto

    @property
    def is_float(self) -> bool:
        """Whether its type is floating-point."""
        return self.is_float_type(self.tensor.data_type)

    @staticmethod
    def is_float_type(kind: int) -> bool:
        """Whether an ONNX data type is floating-point."""
        return kind != onnx.TensorProto.STRING and onnx.helper.tensor_dtype_to_np_dtype(kind).name in _FLOATS

    def to_torch(self) -> Tensor:
        """Return its values, shape as in the graph."""
        return tensor_of(values(self.tensor))


def constants(graph: onnx.GraphProto) -> Iterator[Constant]:
    """Yield every constant tensor of a graph: initializers, and the values of Constant nodes.

    Raises:
        ModelError: one is stored as a sparse tensor.
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
    """Return the names of the constants that training changes: weights and biases, no statistics and no settings."""
    biases = _biases(graph)
    names: set[str] = set()
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):  # readers of a tensor come before its producer
        if needed.isdisjoint(node.output):
            continue  # no output depends on it, so it has no gradient
        needed.update(node.input)
        if node.op_type in _PASSED_ON and node.output[0] in names:
            names.add(node.input[0])
        positions = [position for position in _LEARNED.get(node.op_type, ()) if position < len(node.input)]
        names.update(node.input[position] for position in positions)
        if node.op_type == "Add":
            names.update(biases & set(node.input))
    return frozenset(constant.name for constant in constants(graph) if constant.name in names and constant.is_float)


def _biases(graph: onnx.GraphProto) -> set[str]:
    """Return the inputs of Add that are biases: added to the output of a layer or a scale, not inside an activation."""
    producers = {name: node for node in graph.node for name in node.output}
    parts = {name for node in graph.node if node.op_type in _NO_BIAS_BEFORE for name in node.input}
    sizes = _sizes(graph)
    count = {constant.name: np.prod(constant.tensor.dims) for constant in constants(graph)}
    biases = set()
    for node in graph.node:
        if node.op_type != "Add" or node.output[0] in parts:
            continue
        for name, other in zip(node.input, reversed(node.input), strict=True):
            kind = _operator_before(other, producers)
            if other not in sizes and (kind in _LEARNED or (kind in _SCALED and count.get(name, 2) > 1)):
                biases.add(name)
    return biases


def _operator_before(name: str, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the operator that computes a tensor, skipping those that change only its shape or type."""
    while (node := producers.get(name)) is not None and node.op_type in _PASSED_ON:
        name = node.input[0]
    return "" if node is None else str(node.op_type)


def _sizes(graph: onnx.GraphProto) -> set[str]:
    """Return the names of tensors that depend on shapes and constants alone."""
    sizes = {constant.name for constant in constants(graph)}
    for node in graph.node:
        if node.op_type in {"Shape", "Size"} or sizes.issuperset(filter(None, node.input)):
            sizes.update(node.output)
    return sizes


def state_keys(names: Iterable[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """Return the keys under which a module holds tensors: their names, where PyTorch accepts them.

    It does not if a part between dots is empty or the name of an attribute of modules, or if a prefix of the name is
    already that of a tensor.

    Args:
        names: of the constants, in the order of the graph.
        reserved: names of other attributes of the module.
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
    """Set a tensor of a module under a key whose dots are nested modules."""
    *folders, last = key.split(".")
    for part in folders:
        if part not in root._modules:
            root.add_module(part, _Folder())
        root = root._modules[part] or root
    setattr(root, last, tensor)


def look_up(root: nn.Module, key: str) -> Tensor:
    """Return the tensor that a module holds under a key."""
    *folders, last = key.split(".")
    for part in folders:
        root = root._modules[part] or root
    tensor: Tensor = getattr(root, last)
    return tensor


def tensor_of(array: NDArray[np.generic]) -> Tensor:
    """Copy an array into a tensor of the same shape and type."""
    if array.dtype.name == "bfloat16":  # a type of ml_dtypes, which torch does not accept
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def array_of(tensor: Tensor, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Convert a tensor to an array of a floating-point type; values out of its range become infinite."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    with np.errstate(over="ignore"):
        return tensor.numpy().astype(dtype)


class _Folder(nn.Module):
    """A part of a key that is followed by a dot."""


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
