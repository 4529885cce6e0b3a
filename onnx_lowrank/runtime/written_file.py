"""Measure a written file where it is to run, and say what is wrong with its milliseconds or its outputs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import read_model
from onnx_lowrank.layers import cost
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.runtime.latency import ConversionTimer, Latency
from onnx_lowrank.runtime.layer_latency import LayerTimer
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.settings import Settings

_MIN_SHARE_OF_MACS_SPEEDUP = 0.8  # less is worth a warning
_CLEAR_SPEEDUP = 1.05  # less may be because layers run slower than before
_CLEARLY_SLOWER = 1.05  # time after / before of a layer; less is what clocks differ by
_MAX_LAYERS_NAMED = 3
_WINOGRAD = frozenset({"ncnn", "mnn"})  # runtimes that have it for 3 x 3 kernels, and none for 3 x 1


@dataclass(frozen=True)
class MeasuredFile:
    """What was measured of a written file where it is to run.

    Attributes:
        latency: of the original and the converted network; None where it was not measured.
        slow: warnings that it takes longer than it should, or does not run there.
        differing: warnings that its outputs are not those of onnxruntime.
    """

    latency: Latency | None = None
    slow: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()


def time_file(
    file: Path, network: Network, layers: LayerSet, plan: RankPlan, settings: Settings, timer: ConversionTimer
) -> MeasuredFile:
    """Time a written file against the original, and compare what both compute there with onnxruntime.

    Args:
        file: the converted network.
        network: the original.
        layers: its layers.
        plan: their ranks.
        settings: what was asked for.
        timer: measures milliseconds.

    Returns:
        Nothing where it is not wanted, or this is not the machine that the network was made for.
    """
    if not settings.bench or timer.layer_timer.foreign:
        return MeasuredFile()
    converted = network.as_run(read_model(file))
    try:
        (differing,) = timer.disagreements([converted])
        latency = timer.time(converted)
    except ModelError as error:
        return MeasuredFile(slow=(f"not measured in {settings.runtime}: {error}",))
    slow = slow_warnings(latency, layers, plan, settings, timer)
    if timer.other_batch is not None:
        slow += _slower_than_the_original(timer.other_batch.time(converted))
    return MeasuredFile(latency, slow, differing)


def _slower_than_the_original(latency: Latency) -> tuple[str, ...]:
    """Return a warning where a network is slower than it was; with bounds, where all of them say so."""
    if not latency.telling or latency.most_speedup >= 1:
        return ()
    return (
        f"{latency.measured_text} with batches of {latency.batch}: slower than the original: "
        f"convert for the batch it runs with, `input_shapes` says that",
    )


def slow_warnings(
    latency: Latency, layers: LayerSet, plan: RankPlan, settings: Settings, timer: ConversionTimer
) -> tuple[str, ...]:
    """Return a warning where the measured speedup falls well short of the multiply-adds, or layers run slower.

    A speedup that is unsteady falls short where its upper bound does. Where milliseconds were asked for, they are held
    against that: see `missed_targets`.

    Args:
        latency: measured.
        layers: the network's.
        plan: their ranks.
        settings: what was asked for.
        timer: times the layers to blame.
    """
    if (settings.cost == "latency" and settings.plan is None) or not latency.telling:
        return ()
    speedup = latency.most_speedup
    macs_speedup = layers.macs / max(1, sum(layers.planned_macs(plan)))
    short = speedup < _MIN_SHARE_OF_MACS_SPEEDUP * macs_speedup
    if not short and speedup >= _CLEAR_SPEEDUP:
        return ()
    runtime = timer.layer_timer.runtime
    if runtime.name != Settings.runtime:  # whose converter takes seconds, for every layer
        return (_slow_elsewhere(latency, macs_speedup, runtime.name),)
    timer.measure_layers(layers.eligible, plan)
    chains = plan.factorized(layers.eligible)
    slower = _slower_layers(chains, timer.layer_timer)
    if not short and not slower:
        return ()
    share = f" is under {100 * _MIN_SHARE_OF_MACS_SPEEDUP:.0f} % of the" if short else ","
    named = _slowest_chains(chains, timer.layer_timer)
    parts = [
        f"{latency.measured_text}{share} {macs_speedup:.2f} that multiply-adds promise",
        *slower,
        *([f"most is lost in {named}"] if named else []),
    ]
    return (f"{'; '.join(parts)}: `cost='latency'` spends milliseconds instead, `exclude` leaves layers out",)


def _slow_elsewhere(latency: Latency, macs_speedup: float, name: str) -> str:
    """Say that a network is slower in a runtime than its multiply-adds promise, and what helps there."""
    square = "`method='channel'` keeps square kernels, which it runs by Winograd's algorithm, "
    return (
        f"{latency.measured_text} in {name}, where multiply-adds promise {macs_speedup:.2f}: "
        f"{square if name in _WINOGRAD else ''}`cost='latency'` spends milliseconds measured there"
    )


def _slower_layers(chains: Sequence[tuple[Layer, LayerPlan]], timer: LayerTimer) -> list[str]:
    """Say how many layers take longer than before, and which of them most; nothing where none does."""
    times = [
        (timer.milliseconds(layer, LayerPlan(layer.name)), timer.milliseconds(layer, entry)) for layer, entry in chains
    ]
    slower = [number for number, (before, after) in enumerate(times) if after > _CLEARLY_SLOWER * before]
    if not slower:
        return []
    worst = max(slower, key=lambda number: times[number][1] - times[number][0])
    (layer, _), (before, after) = chains[worst], times[worst]
    return [
        f"{len(slower)} of {len(chains)} factorized layers run slower than before, {layer.op} '{layer.name}' most "
        f"({before:.3g} -> {after:.3g} ms)"
    ]


def _slowest_chains(chains: Sequence[tuple[Layer, LayerPlan]], timer: LayerTimer) -> str:
    """Name the chains that lose most against their multiply-adds at the layer's pace; empty where none does."""

    def lost_ms(chain: tuple[Layer, LayerPlan]) -> float:
        layer, entry = chain
        kept = timer.milliseconds(layer, LayerPlan(layer.name))
        return timer.milliseconds(layer, entry) - kept * cost.chain_macs(layer, entry) / layer.macs

    slow = sorted((chain for chain in chains if lost_ms(chain) > 0), key=lambda chain: -lost_ms(chain))
    return ", ".join(
        f"{layer.op} '{layer.name}' {timer.milliseconds(layer, LayerPlan(layer.name)):.3g} -> "
        f"{timer.milliseconds(layer, entry):.3g} ms at {layer.macs / cost.chain_macs(layer, entry):.1f}x fewer MACs"
        for layer, entry in slow[:_MAX_LAYERS_NAMED]
    )
