"""Count the multiply-adds and the parameters of operators that stay.

Shapes are observed, see `counted_tensors`; what lies in the body of an If, Loop or Scan cannot be observed from outside
and is counted from inferred shapes, as far as these go.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from onnx_lowrank.graph.index import attribute, inner_nodes
from onnx_lowrank.graph.tensors import subgraphs

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class _Inputs:
    """Positions of the inputs of an operator.

    Attributes:
        x: the operand, or the left one.
        weight: the weight, or the right operand.
        more: further parameters, such as the bias.
    """

    x: int = 0
    weight: int = 1
    more: tuple[int, ...] = ()


_CONVOLUTIONS = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv"), _Inputs(more=(2,))),
    "ConvInteger": _Inputs(),
    "QLinearConv": _Inputs(weight=3, more=(8,)),
    "DeformConv": _Inputs(more=(3,)),
}
_TRANSPOSED_CONVOLUTIONS = {
    "ConvTranspose": _Inputs(more=(2,)),
    "ConvTransposeWithDynamicPads": _Inputs(more=(3,)),
    "QLinearConvTranspose": _Inputs(weight=3, more=(8,)),
}
_MATRIX_PRODUCTS = {
    **dict.fromkeys(("Gemm", "FusedGemm", "GemmFloat8", "GemmFastGelu"), _Inputs(more=(2,))),
    **dict.fromkeys(("MatMul", "FusedMatMul", "FusedMatMulActivation", "MatMulInteger"), _Inputs()),
    "QLinearMatMul": _Inputs(weight=3),
    "QGemm": _Inputs(weight=3, more=(6,)),
    "MatMulIntegerToFloat": _Inputs(more=(6,)),
    "DynamicQuantizeMatMul": _Inputs(more=(4,)),
}
_PACKED_PRODUCTS = {  # the weight is packed: attributes say how large it is
    "MatMulNBits": _Inputs(more=(5,)),
    "MatMulBnb4": _Inputs(),
    "MatMulFpQ4": _Inputs(),
}
_RECURRENT = dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _Inputs(weight=1, more=(2, 3)))
_ATTENTION = {
    "Attention": _Inputs(more=(2,)),
    "MultiHeadAttention": _Inputs(more=(3,)),
    "GroupQueryAttention": _Inputs(),
}
_EINSUM = {"Einsum": _Inputs()}

_INPUTS = {
    **_CONVOLUTIONS,
    **_TRANSPOSED_CONVOLUTIONS,
    **_MATRIX_PRODUCTS,
    **_PACKED_PRODUCTS,
    **_RECURRENT,
    **_ATTENTION,
    **_EINSUM,
}
COUNTED_OPERATORS = frozenset(_INPUTS)


def is_counted(node: onnx.NodeProto) -> bool:
    """Return whether a node multiplies and adds: a convolution, a product, a recurrent or an attention operator."""
    return node.op_type in COUNTED_OPERATORS and (node.op_type != "Einsum" or len(node.input) > 1)


def counted_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the tensors whose shapes `multiply_adds` needs: what the nodes read, and their first outputs.

    Initializers have their shapes with them. The graph's inputs are among them where bodies of If, Loop and Scan
    multiply too: see `inner_shapes`.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    nodes = [node for node in graph.node if is_counted(node)]
    names = [name for node in nodes for name in (*node.input, *node.output[:1])]
    if any(is_counted(inner) for node in graph.node for inner in inner_nodes(node)):
        names += [value.name for value in graph.input]
    return [name for name in dict.fromkeys(names) if name and name not in constants]


def weights_of(node: onnx.NodeProto, varying: Container[str]) -> list[str]:
    """Return the weights and biases among a counted node's inputs, but not those that are ``varying``."""
    inputs = _INPUTS[node.op_type]
    places: Iterable[int] = (inputs.x, inputs.weight, *inputs.more)
    if node.op_type in _EINSUM:
        places = range(len(node.input))
    names = [node.input[place] for place in places if place < len(node.input)]
    return [name for name in dict.fromkeys(names) if name and name not in varying]


def varying_inside(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that are computed in the bodies of a node, and the inputs of these."""
    inputs = {value.name for graph in subgraphs(node) for value in graph.input}
    for inner in inner_nodes(node):
        inputs |= {value.name for graph in subgraphs(inner) for value in graph.input}
        inputs |= set(inner.output if inner.op_type != "Constant" else ())
    return inputs


def multiply_adds(node: onnx.NodeProto, shapes: Shapes, samples: int = 1) -> int:
    """Return the multiply-adds per sample of a node; 0 where a shape that it takes to say is not known.

    Args:
        node: a counted node, see `is_counted`.
        shapes: of the tensors it reads and of its first output.
        samples: batch size of these.
    """
    inputs = _INPUTS[node.op_type]
    try:
        return _total(node, inputs, shapes) // samples
    except (KeyError, IndexError, ValueError):  # not known, or not as the operator wants it
        return 0


def _total(node: onnx.NodeProto, inputs: _Inputs, shapes: Shapes) -> int:
    op = node.op_type
    x, y = shapes[node.input[inputs.x]], shapes[node.output[0]]
    if op in _EINSUM:
        return _einsum(attribute(node, "equation"), [shapes[name] for name in node.input])
    if op in _PACKED_PRODUCTS:
        return prod(x) * int(attribute(node, "N"))
    if op in _ATTENTION:
        return _attention(node, shapes)
    if op in _MATRIX_PRODUCTS:
        return prod(y) * x[-2 if attribute(node, "transA", 0) else -1]
    weight = shapes[node.input[inputs.weight]]
    if op in _CONVOLUTIONS:
        return prod(y) * prod(weight[1:])
    if op in _TRANSPOSED_CONVOLUTIONS:
        return prod(x) * prod(weight[1:])
    return prod(x[:2]) * (prod(weight) + prod(shapes[node.input[2]]))  # recurrent: both matrices, at every step


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the products of queries with keys and of scores with values, and that of a projection inside."""
    query, output = shapes[node.input[0]], shapes[node.output[0]]
    if node.domain == "com.microsoft" and node.op_type == "Attention":  # the projection to all three is inside
        columns = shapes[node.input[1]][1]
        keys = (columns - output[-1]) // 2  # queries and keys have one size, values that of the output
        return prod(query) * columns + query[0] * query[1] ** 2 * (keys + output[-1])
    if len(node.input) < 2 or not node.input[1]:  # queries, keys and values in one tensor
        return 2 * prod(output) * query[1]
    return (prod(query) + prod(output)) * shapes[node.input[1]][-2]


def _einsum(equation: str, operands: Sequence[Shape]) -> int:
    """Return the multiply-adds of a sum over products: one per combination of indices and further operand."""
    sizes: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    for term, shape in zip(terms, operands, strict=True):
        before, _, after = term.partition("...")
        free = len(shape) - len(before) - len(after)
        letters = [*before, *(f"...{place}" for place in range(free, 0, -1)), *after]
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return prod(sizes.values()) * (len(operands) - 1)


def inner_shapes(model: onnx.ModelProto, shapes: Shapes) -> dict[str, Shape]:
    """Return the shapes of the tensors in bodies of If, Loop and Scan, as far as inference knows them.

    Args:
        model: the network; not changed.
        shapes: observed shapes, those of the graph's inputs among them.
    """
    if not any(is_counted(inner) for node in model.graph.node for inner in inner_nodes(node)):
        return {}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type
            kind.shape.CopyFrom(
                onnx.helper.make_tensor_type_proto(kind.elem_type, shapes[value.name]).tensor_type.shape
            )
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):  # the latter for models over 2 GiB
        return {}
    graphs = [inferred.graph]
    known: dict[str, Shape] = {}
    while graphs:
        graph = graphs.pop()
        graphs += [inside for node in graph.node for inside in subgraphs(node)]
        known |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for value in (*graph.input, *graph.output, *graph.value_info):
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                known[value.name] = tuple(dim.dim_value for dim in dims)
    return known
