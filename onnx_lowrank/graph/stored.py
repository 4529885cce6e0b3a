"""Where a file holds weights and biases: in which tensors, how many bytes these have, and which nodes read them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import onnx
from onnx import TensorProto, helper

from onnx_lowrank.graph.index import GraphIndex, node_key
from onnx_lowrank.layers.layer import Layer, StoredTensor

_BITS = {
    getattr(TensorProto, name): bits
    for name, bits in {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.items()
    if hasattr(TensorProto, name)  # not in older versions of onnx
}
_SHAPES = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})  # no weights


def with_storage(index: GraphIndex, layer: Layer, node: onnx.NodeProto, names: Mapping[str | None, str]) -> Layer:
    """Return a layer that says where its weight and its bias are stored.

    Args:
        index: the network's graph.
        layer: the layer.
        node: its Conv, ConvTranspose, Gemm or MatMul.
        names: of all nodes, by `node_key`.
    """
    weight = stored_tensor(index, node.input[1], layer.weight.size, layer.weight.itemsize, layer.name)
    readers, handed_out = index.readers(weight.name)
    others = [each for each in readers if node_key(each) not in layer.nodes]
    by_layers = all(each.op_type == node.op_type and each.input[0] in index.varying for each in others)
    weight = replace(weight, readers=tuple(names[node_key(each)] for each in others), stays=handed_out or not by_layers)
    if not layer.bias.any():
        return replace(layer, stored=(weight,))
    constants = [name for key in layer.nodes for name in index.producer[key].input if name not in index.varying]
    named = [name for name in dict.fromkeys(constants) if name and name != node.input[1]]
    bias = StoredTensor(",".join(named), layer.filters, layer.filters * layer.weight.itemsize, str(layer.weight.dtype))
    return replace(layer, stored=(weight, bias))


def stored_tensor(index: GraphIndex, tensor: str, size: int, itemsize: int, owner: str) -> StoredTensor:
    """Return where the values of a constant tensor are stored.

    Args:
        index: the network's graph.
        tensor: name of the constant.
        size: number of its values.
        itemsize: bytes of each of them, where nothing is known of the file's.
        owner: name of the layer, which tells constants of bodies of If and the like apart.
    """
    roots = [each for each in index.roots(tensor) or [] if each.data_type not in _SHAPES]
    if not roots:
        name = tensor if tensor in index.producer else f"{owner}:{tensor}"
        return StoredTensor(name, size, size * itemsize, "")
    largest = max(roots, key=lambda root: prod(root.dims))
    name = largest.name if prod(largest.dims) == size else tensor
    return StoredTensor(name, size, sum(_nbytes(root) for root in roots), _kind(largest))


def _nbytes(tensor: onnx.TensorProto) -> int:
    bits = _BITS.get(tensor.data_type) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(-(-prod(tensor.dims) * bits // 8))


def _kind(tensor: onnx.TensorProto) -> str:
    name = str(TensorProto.DataType.Name(tensor.data_type).lower())
    return {"float": "float32", "double": "float64"}.get(name, name)
