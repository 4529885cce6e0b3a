"""A converted network on its way from the solver to the report, with all that has been measured of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.report.build import Measurements
from onnx_lowrank.settings import Settings


@dataclass(frozen=True, eq=False)
class ConvertedNetwork:
    """A network with its layers solved as planned, not yet written.

    Attributes:
        settings: how it was converted; after a search, with the speedup that was found.
        plan: its ranks.
        model: in the original's types; None for a dry run.
        measurements: errors of its layers and passes that it took.
    """

    settings: Settings
    plan: RankPlan
    model: onnx.ModelProto | None = None
    measurements: Measurements = field(default_factory=Measurements)

    def with_measurements(self, **changes: Any) -> ConvertedNetwork:
        """Return the same network with fields of its measurements changed."""
        return replace(self, measurements=replace(self.measurements, **changes))

    @property
    def solved(self) -> onnx.ModelProto:
        """The model; raises ValueError for a dry run, which has none."""
        if self.model is None:
            raise ValueError("a dry run has no model")
        return self.model
