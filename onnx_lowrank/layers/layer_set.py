"""All layers of a network: those that may be factorized, and those that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.layers.cost import chain_macs, chain_parameters
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
        """Weights and biases of all layers as they are."""
        return sum(layer.parameters for layer in self.every)

    def planned_macs(self, plan: RankPlan) -> list[int]:
        """Return multiply-adds per image of every eligible layer as planned, then of every skipped one."""
        planned = [chain_macs(layer, entry) for layer, entry in zip(self.eligible, plan, strict=True)]
        return planned + [layer.macs for layer in self.skipped]

    def planned_parameters(self, plan: RankPlan) -> int:
        """Return weights and biases of all layers as planned."""
        planned = [chain_parameters(layer, entry) for layer, entry in zip(self.eligible, plan, strict=True)]
        return sum(planned) + sum(layer.parameters for layer in self.skipped)
