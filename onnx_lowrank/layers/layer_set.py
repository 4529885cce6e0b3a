"""All layers of a network: those that may be factorized, and those that stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx_lowrank.layers.cost import UNCUT, Cut, chain_macs, chain_parameters
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.plan import RankPlan


@dataclass(frozen=True, eq=False)
class LayerSet:
    """All layers of a network.

    Attributes:
        eligible: layers that may be factorized, in the order they are converted.
        skipped: layers that stay, each with its reason.
    """

    eligible: Sequence[Layer]
    skipped: Sequence[SkippedLayer]

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
    """Return what is left of the layers that make or carry channels which others do not read any more, by name."""
    shares: dict[str, Cut] = {}
    for layer, entry in zip(layers, plan, strict=True):
        if entry.width is None or layer.reads is None:
            continue
        share = Fraction(entry.width, layer.reads.channels)
        for name in (*layer.reads.makers, *layer.reads.carried):
            shares[name] = shares.get(name, UNCUT).of_made(share)
        for name in layer.reads.squeezed:
            shares[name] = shares.get(name, UNCUT).of_read(share)
    return shares


def parameters_of(layers: Iterable[Layer | SkippedLayer]) -> int:
    """Return the weights and biases of layers; those that several layers share count once."""
    return sum(_stored(layers).values())


def _stored(layers: Iterable[Layer | SkippedLayer]) -> dict[str, int]:
    """Return the sizes of all weights and biases, by what identifies them."""
    sizes: dict[str, int] = {}
    for layer in layers:
        sizes |= {each.name: each.size for each in layer.stored} or {f"of {layer.name}": layer.parameters}
    return sizes
