"""What a conversion brings in milliseconds: the original and the converted network, timed in turns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.calibration import Job
from onnx_lowrank.graph import replace_layer
from onnx_lowrank.layers import cost
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime.timing import Pace, Timing, time_in_turns

log = logging.getLogger(__name__)

_PACE = Pace(rounds=3, repeats=5, seconds=0.03, enough=2.5)
_WORTH_A_WARNING = 0.8  # of the speedup in multiply-adds
_NEARLY = 0.95  # of the speedup in milliseconds that was asked for
_MOST_NAMED = 3
_SHORTEST_MS = 0.3


@dataclass(frozen=True)
class Latency:
    """Measured latency of the original and of the converted network.

    Attributes:
        before: of the original.
        after: of the converted one.
        batch: samples per run.
        threads: within an operator; 0 for onnxruntime's choice.
    """

    before: Timing
    after: Timing
    batch: int
    threads: int

    @property
    def telling(self) -> bool:
        """Whether the original takes long enough for its time to be that of its operators, not that between them."""
        return self.before.median_ms >= _SHORTEST_MS

    @property
    def speedup(self) -> float:
        """How many times as fast the converted network is."""
        return self.before.speedup(self.after)

    @property
    def best_speedup(self) -> float:
        """The same from the fastest run of each, which other work on the machine spoils least: to decide by."""
        return self.before.best_ms / self.after.best_ms

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``latency`` in the JSON report."""
        return {
            "before_ms": self.before.median_ms,
            "after_ms": self.after.median_ms,
            "speedup": self.speedup,
            "batch": self.batch,
            "threads": self.threads or None,
        }


def time_conversion(job: Job, converted: onnx.ModelProto | Path) -> Latency:
    """Time the original and a converted network in turns.

    Args:
        job: the conversion.
        converted: the result, or a stand-in for it.
    """
    return time_conversions(job, [converted])[0]


def time_conversions(job: Job, converted: Sequence[onnx.ModelProto | Path]) -> list[Latency]:
    """Time the original and several converted networks, all in turns, so that the original is timed but once.

    Args:
        job: the conversion.
        converted: the networks.

    Returns:
        One for each of them, in order.
    """
    models = [job.network.model, *converted]
    before, *after = time_in_turns(models, [latency_feeds(job)] * len(models), job.network.provider, _PACE)
    return [Latency(before, each, job.latency_batch, job.network.provider.threads) for each in after]


def with_random_factors(job: Job, plan: RankPlan) -> onnx.ModelProto:
    """The converted network with random weights in its factors: as fast as the real one, and there at once."""
    network = onnx.ModelProto()
    network.CopyFrom(job.network.model)
    for layer, entry in _factorized(job, plan):
        replace_layer(network, layer, random_factors(layer, entry))
    return network


def measure_layers(job: Job, plan: RankPlan) -> None:
    """Time every layer, and its chain where it is factorized."""
    pairs = _factorized(job, plan)
    job.clock.measure([*((layer, LayerPlan(layer.name)) for layer in job.layers), *pairs], job.progress)


def warn_if_slow(job: Job, plan: RankPlan, latency: Latency) -> None:
    """Say in words where the measured speedup falls short of what was asked for, or well short of the multiply-adds.

    Args:
        job: the conversion.
        plan: its ranks.
        latency: measured with them.
    """
    if job.settings.cost == "latency" and job.settings.plan is None:
        if latency.speedup < _NEARLY * job.settings.speedup:
            log.warning(
                "measured speedup %.2f, %g was asked for: other work on this machine spoils the timing, try again",
                latency.speedup,
                job.settings.speedup,
            )
        return
    macs_speedup = sum(layer.macs for layer in job.every_layer) / max(1, sum(job.planned_macs(plan)))
    if not latency.telling or latency.speedup >= _WORTH_A_WARNING * macs_speedup:
        return
    measure_layers(job, plan)
    lost = [chain for chain in _factorized(job, plan) if _lost(job, *chain) > 0]
    lost = sorted(lost, key=lambda chain: -_lost(job, *chain))[:_MOST_NAMED]
    named = "; most is lost in " * bool(lost) + ", ".join(
        f"{layer.op} '{layer.name}' {job.clock.milliseconds(layer, LayerPlan(layer.name)):.3g} -> "
        f"{job.clock.milliseconds(layer, entry):.3g} ms at {layer.macs / cost.chain_macs(layer, entry):.1f}x fewer MACs"
        for layer, entry in lost
    )
    log.warning(
        "measured speedup %.2f is under %.0f %% of the %.2f that multiply-adds promise%s: "
        "`cost='latency'` spends milliseconds instead, `exclude` leaves layers out",
        latency.speedup, 100 * _WORTH_A_WARNING, macs_speedup, named,
    )  # fmt: skip


def _lost(job: Job, layer: Layer, entry: LayerPlan) -> float:
    """Milliseconds that a chain takes longer than its multiply-adds would at the layer's pace."""
    kept = job.clock.milliseconds(layer, LayerPlan(layer.name))
    return job.clock.milliseconds(layer, entry) - kept * cost.chain_macs(layer, entry) / layer.macs


def _factorized(job: Job, plan: RankPlan) -> list[tuple[Layer, LayerPlan]]:
    return [(layer, entry) for layer, entry in zip(job.layers, plan, strict=True) if entry.method != "kept"]


def latency_feeds(job: Job) -> dict[str, NDArray[Any]]:
    """One batch of the size that latency is measured at, samples repeated where there are too few."""
    return job.samples.read(np.resize(job.split.calibration, job.latency_batch))
