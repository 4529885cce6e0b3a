"""Replace one node by a chain of convolutions, or products of matrices, between the same two tensors.

A single one takes over the node's name: the layer is the same, with other weights.

The nodes folded into the layer (BatchNormalization, an added bias) go with it. An initializer that other nodes read is
never edited; one that nothing reads any more is removed.
"""

from __future__ import annotations

import onnx

from onnx_lowrank.graph.builder import GraphBuilder, add_chain
from onnx_lowrank.graph.extract import MIN_FREE_INITIALIZERS_IR, initializer_input, remove_orphans
from onnx_lowrank.graph.index import names_in_use, tensors_read
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer


def replace_layer(model: onnx.ModelProto, layer: Layer, factors: FactorChain, *, planar: bool = False) -> None:
    """Put a solved chain into the model, where the layer was.

    Args:
        model: changed in place.
        layer: a layer of the model that has not been replaced yet.
        factors: its chain; weights are written in the layer's float type.
        planar: write chains of 1-D convolutions as 2-D ones, see `onnx_lowrank.graph.planar`.

    Raises:
        ModelError: a weight overflows the layer's float type; the model is unchanged.
    """
    builder = GraphBuilder(names_in_use(model))
    prefix = layer.name if len(factors.convolutions) == 1 else f"{layer.name}/lowrank"
    add_chain(builder, layer, factors, prefix, (layer.input, layer.response), planar=planar)
    chain, graph = builder.export().graph, model.graph
    replaced = [place for place, node in enumerate(graph.node) if node.output and node.output[0] in layer.nodes]
    no_longer_read = [name for place in replaced for name in tensors_read(graph.node[place])]
    for place in reversed(replaced):
        del graph.node[place]
    for offset, node in enumerate(chain.node):
        graph.node.insert(replaced[0] + offset, node)
    graph.initializer.extend(chain.initializer)
    if model.ir_version < MIN_FREE_INITIALIZERS_IR:
        graph.input.extend(initializer_input(tensor) for tensor in chain.initializer)
    remove_orphans(model, [*no_longer_read, *(tensor for tensor in layer.nodes if tensor != layer.response)])
