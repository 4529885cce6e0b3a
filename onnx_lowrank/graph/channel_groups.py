"""The groups of channels that a layer reads and that may be left out, or the reason why all of them stay."""

from __future__ import annotations

import onnx

from onnx_lowrank.graph.channel_graph import ChannelGraph, Closure, Names, channels_read, said, why_not_read_alike
from onnx_lowrank.graph.channel_walk import find_closures
from onnx_lowrank.graph.index import node_key
from onnx_lowrank.layers.channel_group import ChannelGroup, Run


def channel_groups(graph: ChannelGraph, names: Names, node: onnx.NodeProto) -> tuple[ChannelGroup, ...] | str:
    """Return the channels that a layer reads in groups that may be left out, or the reason why all have to stay.

    Args:
        graph: the network's.
        names: of all nodes, by `node_key`.
        node: a Conv, ConvTranspose, Gemm or MatMul with a constant weight.
    """
    reason = why_not_read_alike(graph, node)
    if reason is not None:
        return reason
    tensor, groups, reasons = node.input[0], [], list[tuple[int, str]]()
    for closure, start, count in find_closures(graph, names, tensor, channels_read(graph.tensors, node)):
        if isinstance(closure, str):
            reasons.append((-count, closure))
        elif node_key(closure.readers[0]) != node_key(node):
            reasons.append((-count, f"left out with those that {said(closure.readers[0], names)} reads"))
        elif count < 2:
            reasons.append((-count, "a single channel"))
        else:
            groups.append(_group(closure, names, start))
    return tuple(groups) or min(reasons, key=lambda each: each[0])[1]


def _group(closure: Closure, names: Names, start: int) -> ChannelGroup:
    """Return a closure as what the layer that chooses its width has to know."""
    makers, carried, squeezed, readers = (
        tuple(names[node_key(each)] for each in nodes)
        for nodes in (closure.makers, closure.carried, closure.squeezed, closure.readers[1:])
    )
    made = {names[node_key(each)]: closure.tensors[each.output[0]] for each in (*closure.makers, *closure.carried)}
    read = {names[node_key(each)]: closure.tensors[each.input[0]] for each in (*closure.squeezed, *closure.readers[1:])}
    runs = [
        {name: Run(place.start, place.total) for name, place in places.items() if place.total != closure.channels}
        for places in (made, read)
    ]
    return ChannelGroup(closure.channels, makers, carried, squeezed, readers, start, *runs)
