"""All layers of a network: those that may be factorized, and those that stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx_lowrank.layers.channel_group import ChannelGroup, left_out
from onnx_lowrank.layers.cost import UNCUT, Cut, chain_macs, chain_parameters
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.plan import RankPlan


@dataclass(frozen=True, eq=False)
class LayerSet:
    """All layers of a network.

    Attributes:
        eligible: layers that may be factorized, in the order they are converted.
        skipped: layers that stay, each with its reason.
        followers: those of the skipped ones that are solved anew where eligible ones leave out channels of their input.
        carriers: depthwise convolutions, skipped too, that are solved anew where their input is not what it was.
    """

    eligible: Sequence[Layer]
    skipped: Sequence[SkippedLayer]
    followers: Sequence[Layer] = ()
    carriers: Sequence[Layer] = ()

    @property
    def sampled(self) -> list[Layer]:
        """Eligible layers, then followers and carriers: all that may be solved."""
        return [*self.eligible, *self.followers, *self.carriers]

    @property
    def every(self) -> list[Layer | SkippedLayer]:
        """Eligible layers, then those that stay."""
        return [*self.eligible, *self.skipped]

    @property
    def macs(self) -> int:
        """Multiply-adds per image of all layers as they are."""
        return sum(layer.macs for layer in self.every)

    @property
    def parameters(self) -> int:
        """Weights and biases of all layers as they are; those that several layers share count once."""
        return parameters_of(self.every)

    def fixed_storage(self, itemsize: int) -> float:
        """Return the storage of the layers that stay, in numbers of ``itemsize`` bytes; quantized ones take less."""
        sizes: dict[str, float] = {}
        for layer in self.skipped:
            own = {each.name: min(each.size, each.nbytes / itemsize) for each in layer.stored}
            sizes |= own or {f"of {layer.name}": layer.parameters}
        return sum(sizes.values())

    def planned_macs(self, plan: RankPlan) -> list[int]:
        """Return multiply-adds per image of every eligible layer as planned, then of every skipped one."""
        shares = _shares(self.eligible, plan)
        planned = [
            chain_macs(layer, entry, shares.get(layer.name, UNCUT))
            for layer, entry in zip(self.eligible, plan, strict=True)
        ]
        return planned + [shares.get(layer.name, UNCUT).of(layer.macs) for layer in self.skipped]

    def planned_parameters(self, plan: RankPlan) -> int:
        """Return weights and biases of all layers as planned; a shared weight stays while any node reads it."""
        shares, pairs = _shares(self.eligible, plan), list(zip(self.eligible, plan, strict=True))
        replaced = [
            (layer, entry) for layer, entry in pairs if entry.method != "kept" or entry.resolved or layer.name in shares
        ]
        changed = {layer.name for layer, _ in replaced}
        cut = [layer for layer in self.skipped if layer.name in shares]
        stored = _stored([each for each in self.every if each.name not in changed and each.name not in shares])
        stored |= {each.name: each.size for layer, _ in replaced for each in layer.stored if each.stays}
        return (
            sum(stored.values())
            + sum(chain_parameters(layer, entry, shares.get(layer.name, UNCUT)) for layer, entry in replaced)
            + sum(shares[layer.name].of(layer.parameters) for layer in cut)
        )


def _shares(layers: Sequence[Layer], plan: RankPlan) -> dict[str, Cut]:
    """Return what is left of the layers that make, carry or read channels which another one leaves out, by name."""
    shares: dict[str, Cut] = {}
    for layer, entry in zip(layers, plan, strict=True):
        if entry.width is None:
            continue
        groups = layer.read_groups
        for group, count in zip(groups, left_out(groups, layer.channels - entry.width), strict=True):
            for name in (*group.makers, *group.carried):
                share = Fraction(count, group.filters_of(name).total)
                shares[name] = shares.get(name, UNCUT).less_made(share)
            for name in group.followers:
                share = Fraction(count, group.inputs_of(name).total)
                shares[name] = shares.get(name, UNCUT).less_read(share)
    return shares


def following(layers: LayerSet, plan: RankPlan) -> list[Layer]:
    """Return the layers that lose channels of their input which another layer leaves out as planned."""
    names = {name for group in _narrowed(layers, plan) for name in group.followers}
    return [layer for layer in layers.sampled if layer.name in names]


def narrowed_makers(layers: LayerSet, plan: RankPlan) -> set[str]:
    """Return the names of the layers that lose filters as planned, eligible or not."""
    return {name for group in _narrowed(layers, plan) for name in group.makers}


def _narrowed(layers: LayerSet, plan: RankPlan) -> list[ChannelGroup]:
    """Return the groups that lose channels as planned."""
    pairs = zip(layers.eligible, plan, strict=True)
    return [group for layer, entry in pairs if entry.width is not None for group in layer.read_groups]


def parameters_of(layers: Iterable[Layer | SkippedLayer]) -> int:
    """Return the weights and biases of layers; those that several layers share count once."""
    return sum(_stored(layers).values())


def _stored(layers: Iterable[Layer | SkippedLayer]) -> dict[str, int]:
    """Return the sizes of all weights and biases, by what identifies them."""
    sizes: dict[str, int] = {}
    for layer in layers:
        sizes |= {each.name: each.size for each in layer.stored} or {f"of {layer.name}": layer.parameters}
    return sizes
