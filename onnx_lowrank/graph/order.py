"""Sort nodes so that each comes after those whose outputs it reads: ONNX requires it, some exporters did not do it."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.index import tensors_read


def sort_nodes(graph: onnx.GraphProto, where: str) -> None:
    """Sort a graph's nodes topologically; a graph that is in order stays as it is.

    Args:
        graph: changed in place.
        where: name of the model in error messages.

    Raises:
        ModelError: nodes depend on each other in a circle, or two compute the same tensor.
    """
    makers: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers:
                raise ModelError(f"{where}: two nodes make the tensor '{name}', one is wanted: export it again")
            makers[name] = number
    waits = [{makers[name] for name in tensors_read(node) if name in makers} for node in graph.node]
    if all(number > max(before, default=-1) for number, before in enumerate(waits)):
        return
    try:
        order = list(TopologicalSorter(dict(enumerate(waits))).static_order())
    except CycleError as error:
        circle = " <- ".join(f"'{graph.node[number].name or graph.node[number].op_type}'" for number in error.args[1])
        raise ModelError(f"{where}: nodes wait for each other ({circle}): export it again") from error
    nodes = [graph.node[number] for number in order]
    del graph.node[:]
    graph.node.extend(nodes)
