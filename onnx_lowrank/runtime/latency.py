"""Measure what a conversion brings in milliseconds: the original and converted networks, timed in turns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import narrow_channels, replace_layer
from onnx_lowrank.layers.channel_group import in_turns
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime.agreement import disagreement
from onnx_lowrank.runtime.backends.converted_once import ConvertedOnce
from onnx_lowrank.runtime.backends.protocol import RuntimeFacts
from onnx_lowrank.runtime.layer_latency import LayerTimer
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.timing import Pace, Timing, time_in_turns
from onnx_lowrank.runtime.trial import try_out
from onnx_lowrank.settings import Settings

log = logging.getLogger(__name__)

_PACE = Pace(rounds=3, repeats=5, seconds=0.03, enough=2.5)
_MIN_TELLING_MS = 0.3
# Larger / smaller bound of a speedup. Four networks of 0.05 to 50 ms were timed 150 times on two shared cores: in quiet
# moments the small ones came within 1.03, with neighbours at work the bounds were 1.3 to 18 apart, and single speedups
# wrong by a factor of up to 4. Of the speedups with bounds within 1.25, nine in ten were wrong by at most 7 %.
_MAX_STEADY_RATIO = 1.25


@dataclass(frozen=True)
class Latency:
    """Measured latency of the original and of the converted network.

    Attributes:
        before: of the original.
        after: of the converted network.
        batch: samples per run.
        threads: within an operator; 0 for the runtime's choice.
        runtime: what they ran in; None where that is not known.
    """

    before: Timing
    after: Timing
    batch: int
    threads: int
    runtime: RuntimeFacts | None = None

    @property
    def telling(self) -> bool:
        """Whether the original takes long enough for its time to be that of its operators, not that between them."""
        return self.before.median_ms >= _MIN_TELLING_MS

    @property
    def speedup(self) -> float:
        """How many times as fast the converted network is: the ratio of the medians."""
        return self.before.speedup(self.after)

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the speedup, see `Timing.speedup_interval`."""
        return self.before.speedup_interval(self.after)

    @property
    def steady(self) -> bool:
        """Whether the bounds are close enough to name one speedup."""
        return is_steady(self.interval)

    @property
    def most_speedup(self) -> float:
        """The speedup, or its upper bound where it is unsteady: what falls short of a target does so for certain."""
        return self.speedup if self.steady else self.interval[1]

    @property
    def least_speedup(self) -> float:
        """The speedup, or its lower bound where it is unsteady."""
        return self.speedup if self.steady else self.interval[0]

    @property
    def measured_text(self) -> str:
        """The same in words."""
        return f"measured speedup {self.most_speedup:.2f}" + ("" if self.steady else " at most")

    @property
    def best_speedup(self) -> float:
        """The same from the fastest run of each, which other work on the machine spoils least: to decide by."""
        return self.before.best_ms / self.after.best_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``latency`` in the JSON report."""
        return {
            "before_ms": self.before.median_ms,
            "after_ms": self.after.median_ms,
            "speedup": self.speedup,
            "ratio": self.speedup,
            "interval": list(self.interval),
            "steady": self.steady,
            "batch": self.batch,
            "threads": self.threads or None,
            "runtime": None if self.runtime is None else self.runtime.to_dict(),
        }


def is_steady(interval: tuple[float, float]) -> bool:
    """Return whether the bounds of a speedup are close enough to name one number."""
    low, high = interval
    return high <= _MAX_STEADY_RATIO * low


class ConversionTimer:
    """Times a network against what it is converted into, and its layers one by one.

    Args:
        network: the original.
        feeds: the batch that whole networks are timed with.
        layer_timer: times single layers, with batches of the same size.
        progress: watches.
        planar: chains of 1-D convolutions are written as 2-D ones, see `onnx_lowrank.graph.planar`.
        other_batch: times the same with batches of another size; None where none need be timed.

    The original is converted for the runtime once; `close` removes what was made of it.

    Attributes:
        layer_timer: times single layers.
        other_batch: as given.
    """

    def __init__(
        self,
        network: Network,
        feeds: Mapping[str, NDArray[Any]],
        layer_timer: LayerTimer,
        progress: Progress,
        *,
        planar: bool = False,
        other_batch: ConversionTimer | None = None,
    ) -> None:
        self._network, self._feeds, self._progress = network, feeds, progress
        self.layer_timer, self._planar, self.other_batch = layer_timer, planar, other_batch
        self._runtime = ConvertedOnce(layer_timer.runtime, network.model)

    def close(self) -> None:
        """Remove what was made of the original to time it."""
        self._runtime.close()
        if self.other_batch is not None:
            self.other_batch.close()

    def time(self, converted: onnx.ModelProto | Path) -> Latency:
        """Time the original and a converted network in turns.

        Args:
            converted: the network, as it runs here.
        """
        return self.time_all([converted])[0]

    def time_all(self, converted: Sequence[onnx.ModelProto | Path]) -> list[Latency]:
        """Time the original and several converted networks, all in turns, so that the original is timed but once.

        Where the ratios are not steady, as many rounds are added once.

        Args:
            converted: the networks, as they run here.

        Returns:
            One latency for each of them, in order.
        """
        latencies = self._time_once(converted)
        if all(latency.steady for latency in latencies):
            return latencies
        log.info("timings are unsteady: timed again")
        return [
            replace(first, before=first.before.joined(again.before), after=first.after.joined(again.after))
            for first, again in zip(latencies, self._time_once(converted), strict=True)
        ]

    def _time_once(self, converted: Sequence[onnx.ModelProto | Path]) -> list[Latency]:
        models, runtime = [self._network.model, *converted], self._runtime
        before, *after = time_in_turns(models, [self._feeds] * len(models), runtime, _PACE)
        facts = RuntimeFacts.of(runtime)
        return [Latency(before, timing, self.layer_timer.batch, runtime.threads, facts) for timing in after]

    def disagreements(self, converted: Sequence[onnx.ModelProto | Path]) -> list[tuple[str, ...]]:
        """Return what is to be said of converted networks that compute something else here than in onnxruntime.

        Args:
            converted: the networks, as they run here.

        Returns:
            Warnings for each of them, in order; those of the original count for all.

        Raises:
            ModelError: the runtime cannot convert or run one of them.
        """
        runtime, provider = self._runtime, self._network.provider
        if runtime.name == Settings.runtime:
            return [()] * len(converted)
        models = [self._network.model, *converted]
        trials = try_out(models, [self._feeds] * len(models), runtime, provider)
        for trial in trials:
            if trial.error is not None:
                raise ModelError(trial.error)
        original, *others = (trial.differences for trial in trials)
        names, facts = ("the original", "the converted network"), RuntimeFacts.of(runtime)
        return [tuple(disagreement(facts, names, [original, each])) for each in others]

    def time_plan(self, layers: Sequence[Layer], plan: RankPlan) -> Latency:
        """Time the network as planned before it is solved, with random weights, which are as fast.

        Args:
            layers: the layers that the plan is for.
            plan: their methods and ranks.
        """
        return self._time_once([self._planned(layers, plan)])[0]

    def time_beside_plan(
        self, solved: onnx.ModelProto, layers: Sequence[Layer], plan: RankPlan
    ) -> tuple[Latency, Latency]:
        """Time a solved network and what its ranks were chosen by, in turns: what differs is no change of the machine.

        Args:
            solved: the network, as it runs here.
            layers: the layers that the plan is for.
            plan: its ranks.

        Returns:
            The latencies of the solved network, and of the planned one with random weights.
        """
        first, second = self.time_all([solved, self._planned(layers, plan)])
        return first, second

    def _planned(self, layers: Sequence[Layer], plan: RankPlan) -> onnx.ModelProto:
        return with_random_factors(self._network.model, layers, plan, planar=self._planar)

    def original_ms(self) -> float:
        """Return the milliseconds of the original, timed where that has not been done before."""
        return self.layer_timer.network(self._network.model, self._feeds, self._runtime)

    def measure(self, chains: Sequence[tuple[Layer, LayerPlan]]) -> None:
        """Time layers as planned, where that has not been done before."""
        self.layer_timer.measure(chains, self._progress)

    def measure_layers(self, layers: Sequence[Layer], plan: RankPlan) -> None:
        """Time every layer, and its chain where it is factorized."""
        self.measure([*((layer, LayerPlan(layer.name)) for layer in layers), *plan.factorized(layers)])


def with_random_factors(
    model: onnx.ModelProto, layers: Sequence[Layer], plan: RankPlan, *, planar: bool = False
) -> onnx.ModelProto:
    """Return the converted network with random weights in its factors: as fast as the real one, and there at once.

    Args:
        model: the original; not changed.
        layers: the layers that the plan is for.
        plan: their methods and ranks.
        planar: write chains of 1-D convolutions as 2-D ones.
    """
    network = onnx.ModelProto()
    network.CopyFrom(model)
    planned = plan.factorized(layers)
    for layer, entry in planned:
        if entry.width is None:
            replace_layer(network, layer, random_factors(layer, entry), planar=planar)
    narrow_channels(
        network,
        {
            layer.input: np.sort(in_turns(layer.read_groups, np.arange(layer.channels))[-entry.width :])
            for layer, entry in planned
            if entry.width is not None
        },
    )
    return network
