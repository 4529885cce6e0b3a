"""Multiply-adds, parameters and storage of a layer as planned, counted over the convolutions of its chain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

from onnx_lowrank.layers.chain_shapes import chain_shapes
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan


@dataclass(frozen=True)
class Cut:
    """What is left of a layer whose channels others leave out.

    Attributes:
        made: share of its filters that is still read.
        read: share of its input that is still made, or was left out by its own choice.
    """

    made: Fraction = Fraction(1)
    read: Fraction = Fraction(1)

    def less_made(self, share: Fraction) -> Cut:
        """Return the cut with a further share of all filters left out."""
        return replace(self, made=self.made - share)

    def less_read(self, share: Fraction) -> Cut:
        """Return the cut with a further share of the whole input left out."""
        return replace(self, read=self.read - share)

    def of(self, count: int) -> int:
        """Return what is left of a number of multiply-adds or weights."""
        return round(count * self.made * self.read)


UNCUT = Cut()


def chain_macs(layer: Layer, plan: LayerPlan, cut: Cut = UNCUT) -> int:
    """Return the multiply-adds per image of a layer as planned, bias not counted.

    Args:
        layer: the original layer.
        plan: method and ranks.
        cut: what is left of its channels.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    # Rank selection counts every option of every layer: unpacking is faster than attributes.
    counts = [layer.maps * prod(weight) * prod(size) for weight, _, _, size in chain_shapes(layer, plan)]
    return sum(counts) if cut is UNCUT else sum(_cut(layer, plan, counts, cut))


class EndShares:
    """Shares of a planned layer's multiply-adds that fall with its inputs, and with its filters.

    Those of its first and of its last convolution, which may be one. All convolutions of a chain with one rank grow
    with it, so that their shares are the same for any; with two ranks they are products of them.

    Args:
        layer: the original layer.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._units: dict[str, list[int]] = {}

    def __call__(self, plan: LayerPlan) -> tuple[float, float]:
        """Return the shares of the layer as planned, with its inputs and with its filters."""
        if plan.method not in self._units:  # of many options only the ranks differ
            self._units[plan.method] = self._counts_at_rank_one(plan)
        counts = self._units[plan.method]
        if len(counts) == 3:  # the rank in front is of space or of the inputs, the one behind of the filters
            first, middle, last = counts
            front, behind = plan.spatial or plan.input or 1, plan.channel or 1
            counts = [first * front, middle * front * behind, last * behind]
        return counts[0] / sum(counts), counts[-1] / sum(counts)

    def _counts_at_rank_one(self, plan: LayerPlan) -> list[int]:
        """Return the multiply-adds per map of each convolution of a plan's method."""
        unit = replace(plan, channel=plan.channel and 1, spatial=plan.spatial and 1, input=plan.input and 1)
        return [prod(weight) * prod(size) for weight, _, _, size in chain_shapes(self._layer, unit)]


def _cut(layer: Layer, plan: LayerPlan, counts: list[int], cut: Cut) -> list[int]:
    """Return what is left of the counts of a chain: its first convolution reads, its last one makes channels."""
    inputs = plan.width or layer.channels
    read = 1 - (1 - cut.read) * Fraction(layer.channels, inputs)
    counts = [Cut(read=read).of(counts[0]), *counts[1:]]
    return [*counts[:-1], Cut(made=cut.made).of(counts[-1])]


def chain_parameters(layer: Layer, plan: LayerPlan, cut: Cut = UNCUT) -> int:
    """Return the number of weights and biases of a layer as planned; only the last convolution of a chain has a bias.

    Args:
        layer: the original layer.
        plan: method and ranks.
        cut: what is left of its channels.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    untouched = plan.method == "kept" and not plan.resolved
    biases = layer.parameters - layer.weight.size if untouched else layer.filters
    counts = [prod(weight) for weight, _, _, _ in chain_shapes(layer, plan)]
    return sum(_cut(layer, plan, counts, cut)) + Cut(made=cut.made).of(biases)


def chain_storage(layer: Layer, plan: LayerPlan) -> float:
    """Return the storage of a layer as planned, in numbers of its own type: parameters, unless they are quantized.

    Factors are not quantized, so that they may need more than the weight that they replace.

    Args:
        layer: the original layer.
        plan: method and ranks.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    if plan.method == "kept":
        return layer.stored_bytes / layer.weight.itemsize
    return chain_parameters(layer, plan)
