"""Build what is new in a network with onnx-graphsurgeon: chains of convolutions, taps, models of single layers.

A `gs.Graph` only ever holds new nodes. It is exported as a small model, whose nodes and initializers are then put into
the user's model. The user's model stays a `ModelProto` all the time, since a round trip through onnx-graphsurgeon would
lose parts of it, such as metadata, doc strings and the types of some inputs.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.index import fresh_name
from onnx_lowrank.graph.planar import is_planar, planar_chain
from onnx_lowrank.graph.transposed import reversed_weight
from onnx_lowrank.graph.typed_factors import typed, typed_weights
from onnx_lowrank.layers.factors import Convolution, FactorChain
from onnx_lowrank.layers.layer import Layer

Shape = tuple[int, ...]

_OPSET, _IR_VERSION = 13, 8  # of models that are run by themselves
_TO_MAPS, _TO_ROWS = (0, 0, 1, -1), (0, 0, -1)  # shapes of Reshape: 0 keeps an axis, -1 takes the rest


class GraphBuilder:
    """A graph of new nodes, which are added in the order they run; tensors are known by their names.

    Args:
        taken: names of nodes and tensors that `fresh` avoids.
        name: of the graph.
    """

    def __init__(self, taken: Container[str] = (), name: str = "new") -> None:
        self._graph = gs.Graph(name=name, opset=_OPSET, ir_version=_IR_VERSION)
        self._tensors: dict[str, Any] = {}
        self._taken = taken

    def fresh(self, name: str) -> str:
        """Return a name that is not taken: the one given, or that with a number behind it."""
        return fresh_name(name, self._taken)

    def input(self, name: str, element_type: int, shape: Shape | None = None) -> str:
        """Add an input of the graph, of an ONNX element type; return its name."""
        self._graph.inputs.append(self._tensor(name, element_type, shape))
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer; return its name."""
        self._tensors[name] = gs.Constant(name, values)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, *, name: str = "", **attributes: Any) -> str:
        """Add a node of a standard operator with one output; return the name of that output."""
        tensors = [self._tensor(each) for each in inputs]
        # Sorted as onnx.helper.make_node does, so that the same node always has the same bytes.
        ordered = dict(sorted(attributes.items()))
        self._graph.layer(inputs=tensors, outputs=[self._tensor(output)], op=op, name=name, attrs=ordered)
        return output

    def output(self, name: str, element_type: int, shape: Shape | None = None) -> None:
        """Make a tensor an output of the graph."""
        tensor = self._tensor(name)
        tensor.dtype, tensor.shape = element_type, shape
        self._graph.outputs.append(tensor)

    def export(self) -> onnx.ModelProto:
        """Return the graph as a model, initializers in the order in which nodes read them; can be called once."""
        model: onnx.ModelProto = gs.export_onnx(self._graph)
        for tensor in self._tensors.values():
            # Tensors refer to themselves: large weights would stay in memory until garbage is collected.
            if isinstance(tensor, gs.Constant):
                tensor.values = np.empty(0)
        return model

    def _tensor(self, name: str, element_type: int | None = None, shape: Shape | None = None) -> Any:
        return self._tensors.setdefault(name, gs.Variable(name, element_type, shape))


def add_chain(
    graph: GraphBuilder,
    layer: Layer,
    factors: FactorChain,
    prefix: str,
    ends: tuple[str, str],
    *,
    planar: bool = False,
) -> None:
    """Add a layer's chain: a Conv or ConvTranspose for each factor, or MatMul and Add where it is fully connected.

    Args:
        graph: where nodes are added.
        layer: whose kind and float type the factors get.
        factors: the chain.
        prefix: of node names, which continue with ``_0``, ``_1``, ``_2``; the name itself where there is one factor.
        ends: names of the tensor that the chain reads and of the one that it makes.
        planar: write 1-D convolutions as 2-D ones of height 1, see `planar_chain`.

    Raises:
        ModelError: a weight overflows the layer's float type.
    """
    if planar and not layer.channels_last and is_planar(factors):
        maps = graph.fresh(f"{prefix}/maps"), graph.fresh(f"{prefix}/response")
        _reshape(graph, ends[0], maps[0], _TO_MAPS, f"{prefix}/to_maps")
        add_chain(graph, layer, planar_chain(factors), prefix, maps)
        _reshape(graph, maps[1], ends[1], _TO_ROWS, f"{prefix}/to_rows")
        return
    weights = typed_weights(layer, factors)
    tensor, target = ends
    count = len(factors.convolutions)
    for position, (convolution, weight) in enumerate(zip(factors.convolutions, weights, strict=True)):
        name = prefix if count == 1 else graph.fresh(f"{prefix}_{position}")
        is_last = position == count - 1
        output = target if is_last else graph.fresh(f"{name}/output")
        parameters = {"weight": _as_operators_read_it(weight, layer, convolution)}
        if convolution.bias is not None:
            parameters["bias"] = typed(layer, convolution.bias)
        names = [graph.constant(graph.fresh(f"{name}/{part}"), values) for part, values in parameters.items()]
        if not layer.channels_last:
            op = "ConvTranspose" if convolution.geometry.transposed else "Conv"
            graph.node(op, [tensor, *names], output, name=name, **_attributes(convolution))
        elif count == 1 and layer.op == "Gemm":
            graph.node("Gemm", [tensor, *names], output, name=name)
        elif convolution.bias is None:
            graph.node("MatMul", [tensor, *names], output, name=name)
        else:
            product = graph.node("MatMul", [tensor, names[0]], graph.fresh(f"{name}/product"), name=name)
            graph.node("Add", [product, names[1]], output, name=graph.fresh(f"{name}/add"))
        tensor = output


def _reshape(graph: GraphBuilder, source: str, target: str, shape: Shape, name: str) -> None:
    """Add a Reshape, which opsets before 13 know as well, unlike Unsqueeze with its axes as an input."""
    name = graph.fresh(name)
    constant = graph.constant(graph.fresh(f"{name}/shape"), np.array(shape, np.int64))
    graph.node("Reshape", [source, constant], target, name=name)


def _as_operators_read_it(weight: NDArray[Any], layer: Layer, convolution: Convolution) -> NDArray[Any]:
    if layer.channels_last:
        return weight[:, :, 0].T
    return reversed_weight(weight, convolution.groups) if convolution.geometry.transposed else weight


def _attributes(convolution: Convolution) -> dict[str, Any]:
    """Return the attributes of a Conv or ConvTranspose node."""
    geometry = convolution.geometry
    more = {} if geometry.output_padding is None else {"output_padding": geometry.output_padding}
    padding = {"pads": geometry.pads} if geometry.auto_pad == "NOTSET" else {"auto_pad": geometry.auto_pad}
    return {
        "kernel_shape": convolution.weight.shape[2:],
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "group": convolution.groups,
        **padding,
        **more,
    }
