"""Cut a converted network into blocks of a few converted layers, each compared with the original at its end.

A cut lies behind a node: what is computed before it and read after it goes through. There are few good places: where
little goes through, as behind a residual sum or a pooling, and where the converted network has tensors of the same
names and shapes, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from onnx_lowrank.graph.extract import descendants
from onnx_lowrank.graph.index import tensors_read

MIN_LAYERS, MAX_LAYERS = 2, 4  # converted ones in a block, where cuts allow
_MAX_CUT_TENSORS = 8  # that differ between the networks: more are many branches at once


@dataclass(frozen=True)
class Block:
    """A part of a network between two cuts.

    Attributes:
        inputs: names of the tensors that it reads: inputs of the network, or what earlier blocks computed.
        outputs: names of the tensors behind it that the rest of the network reads.
        compared: those of the outputs that it computes from converted layers, and that are numbers to be compared.
        layers: outputs of the converted layers in it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compared: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def made(self) -> tuple[str, ...]:
        """Names of the outputs that it computes; the others only go past it."""
        return tuple(name for name in self.outputs if name not in self.inputs)


@dataclass(frozen=True)
class _Cut:
    """A place to cut at.

    Attributes:
        node: number of the node that it lies behind.
        tensors: names of those that go through.
        compared: those of them that depend on converted layers, and are numbers to be compared.
        layers: converted layers up to here.
        burden: what speaks against it: many tensors, then large ones.
    """

    node: int
    tensors: tuple[str, ...]
    compared: tuple[str, ...]
    layers: int
    burden: tuple[int, int]


def changed_tensors(original: onnx.GraphProto, converted: onnx.GraphProto) -> list[str]:
    """Return the names of tensors that both networks compute by a node with other weights or another input.

    Args:
        original: graph of the network.
        converted: that of its conversion, of the same tensor names where it computes the same.
    """
    weights = [{tensor.name: tensor for tensor in graph.initializer} for graph in (original, converted)]
    makers = [{name: node for node in graph.node for name in node.output} for graph in (original, converted)]
    changed = {name for name in weights[0].keys() & weights[1].keys() if weights[0][name] != weights[1][name]}
    return [
        name
        for name, node in makers[0].items()
        if name in makers[1] and (list(node.input) != list(makers[1][name].input) or not changed.isdisjoint(node.input))
    ]


def split_into_blocks(
    original: onnx.ModelProto,
    converted: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    floats: frozenset[str],
) -> list[Block]:
    """Cut a converted network into blocks.

    Args:
        original: the network, with its nodes in topological order.
        converted: its conversion.
        shapes: of the tensors that have the same shape in both.
        floats: names of tensors of floating-point numbers.

    Returns:
        The blocks in order; together they hold all converted layers, but for those behind the last place to cut at.
    """
    layers = changed_tensors(original.graph, converted.graph)
    cuts = list(_cuts(original, layers, shapes, floats))
    blocks: list[Block] = []
    start = _Cut(-1, tuple(value.name for value in _inputs(original)), (), 0, (0, 0))
    while (end := _next_cut(cuts, start)) is not None:
        inside = tuple(layers[start.layers : end.layers])
        compared = tuple(name for name in end.compared if name not in start.tensors)
        blocks.append(Block(start.tensors, end.tensors, compared, inside))
        start = end
    return blocks


def _next_cut(cuts: Sequence[_Cut], start: _Cut) -> _Cut | None:
    """Return the best place to end the block that begins at a cut; None if no converted layer follows."""
    later = [cut for cut in cuts if cut.node > start.node and cut.layers > start.layers]
    if not later:
        return None
    within = [cut for cut in later if cut.layers <= start.layers + MAX_LAYERS]
    enough = [cut for cut in within if cut.layers >= start.layers + MIN_LAYERS]
    return min(enough or within or later[:1], key=lambda cut: (*cut.burden, cut.node))


def _cuts(
    model: onnx.ModelProto, layers: Sequence[str], shapes: Mapping[str, tuple[int, ...]], floats: frozenset[str]
) -> Iterator[_Cut]:
    """Find all places to cut at, in the order of the nodes."""
    moved, last = descendants(model, layers), _last_readers(model)
    live = {value.name for value in _inputs(model)}
    done, changed = 0, set(layers)
    constants = {tensor.name for tensor in model.graph.initializer}
    for number, node in enumerate(model.graph.node):
        constant = constants.issuperset(tensors_read(node))
        if constant:
            constants.update(node.output)
        live.update(name for name in node.output if name and not constant)
        live = {name for name in live if last.get(name, -1) > number}
        done += not changed.isdisjoint(node.output)
        compared = tuple(sorted(name for name in live & moved if name in floats))
        if compared and len(compared) <= _MAX_CUT_TENSORS and all(name in shapes for name in live & moved):
            sizes = [prod(shapes[name]) for name in live & floats]
            yield _Cut(number, tuple(sorted(live)), compared, done, (len(sizes), sum(sizes)))


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _last_readers(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of the last node that reads a tensor; that of no node for the network's outputs."""
    last = {name: number for number, node in enumerate(model.graph.node) for name in tensors_read(node)}
    return last | {value.name: len(model.graph.node) for value in model.graph.output}
