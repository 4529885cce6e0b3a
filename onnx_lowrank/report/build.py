"""Put all that was planned, solved and measured in a conversion into a report, and the figures beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.graph.tensors import every_tensor, is_external, stored_bytes
from onnx_lowrank.layers.cost import chain_parameters
from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.refined_block import RefinedBlock
from onnx_lowrank.layers.warning import ReportWarning
from onnx_lowrank.metrics import Measured
from onnx_lowrank.ranks.estimate import LossEstimate, predicted_error
from onnx_lowrank.ranks.search import Search
from onnx_lowrank.report.figures import ReportFigures
from onnx_lowrank.report.report import Calibration, LayerReport, Report
from onnx_lowrank.report.targets import missed_targets
from onnx_lowrank.report.text import held_out_text
from onnx_lowrank.runtime.latency import Latency
from onnx_lowrank.runtime.layer_latency import LayerTimer
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.stopwatch import peak_memory_bytes
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify import CONFIDENCE, AccuracyLoss, Comparison, FoundExample
from onnx_lowrank.verify.fidelity import fidelity_warnings, is_close, limits
from onnx_lowrank.version import __version__

log = logging.getLogger(__name__)

_STAGES = ("collect", "ranks", "propagate", "solve")
_STAGES_OF_SEARCH = ("collect", "ranks", "search")  # which propagates and solves many times


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of a converted network; nothing for a dry run.

    Attributes:
        errors: of the solved layers by name.
        fallback_reasons: why factors come from the weights alone, by the names of the layers where they do.
        passes: of the converted network over the calibration set.
        comparison: of the written file with the original.
        latency: of both; None where it was not measured.
        slow: warnings that it takes longer than its multiply-adds promise.
        differing: warnings that the runtime that it is for computes something else than onnxruntime.
        search: for the speedup; None where that was given.
        estimates: what other speedups would lose; for a dry run only.
        loss: of the network that a search ended with, on samples that nothing was searched with; None likewise, and
            for a dry run.
        metric: of the original and of the written file; None where none was asked for.
        found: held-out images with what both networks find in them.
        blocks: of layers that were trained together; none without that.
        weighed: whether errors counted by what the outputs feel of them.
    """

    errors: Mapping[str, SolveErrors] = field(default_factory=dict)
    fallback_reasons: Mapping[str, str] = field(default_factory=dict)
    passes: float = 0.0
    comparison: Comparison | None = None
    latency: Latency | None = None
    slow: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    search: Search[Any, AccuracyLoss] | None = None
    estimates: tuple[LossEstimate, ...] = ()
    loss: AccuracyLoss | None = None
    metric: Measured | None = None
    found: tuple[FoundExample, ...] = ()
    blocks: tuple[RefinedBlock, ...] = ()
    weighed: bool = False


def _stages(measurements: Measurements) -> tuple[str, ...]:
    weighed, refined = ["weigh"] if measurements.weighed else [], ["refine"] if measurements.blocks else []
    return (*weighed, *(_STAGES_OF_SEARCH if measurements.search else _STAGES), *refined, "verify", "bench")


def build_report(
    network: Network,
    layers: LayerSet,
    plan: RankPlan,
    calibration: CalibrationSet,
    settings: Settings,
    measurements: Measurements,
    timer: LayerTimer,
    monitor: Monitor,
) -> Report:
    """Build the report of a conversion that has not been written yet; sizes of files are left open.

    Args:
        network: the original.
        layers: its layers.
        plan: their ranks.
        calibration: the samples.
        settings: how it was converted.
        measurements: of the converted network.
        timer: knows the milliseconds of layers that have been timed.
        monitor: knows the seconds of the conversion.
    """
    macs, comparison, latency = layers.planned_macs(plan), measurements.comparison, measurements.latency
    rows = [
        LayerReport.of_planned(
            layer,
            entry,
            after,
            measurements.errors.get(layer.name),
            _milliseconds(timer, layer, entry),
            measurements.fallback_reasons.get(layer.name),
        )
        for layer, entry, after in zip(layers.eligible, plan, macs, strict=False)  # the rest is that of skipped layers
    ]
    rows += map(LayerReport.of_skipped, layers.skipped, macs[len(layers.eligible) :])
    used = calibration_report(network, calibration)
    report = Report(
        version=__version__,
        seed=settings.seed,
        input=network.name,
        output=None,
        requested=None if settings.plan or measurements.search else settings.speedup,
        macs=(layers.macs, sum(macs)),
        parameters=(layers.parameters, layers.planned_parameters(plan)),
        calibration=used,
        layers=tuple(network.in_order(rows)),
        verification=None if comparison is None else _verification(comparison, settings.output_drop),
        forward_passes={
            # One more batch to observe the shapes of tensors.
            "original": (calibration.images + calibration.smallest_batch) / calibration.images,
            "converted": measurements.passes,
        },
        seconds=monitor.seconds(_stages(measurements)),
        peak_memory_bytes=peak_memory_bytes(),
        latency=None if latency is None else latency.to_dict(),
        max_drop=_max_drop(settings, measurements),
        limits=limits(settings),
        predicted_error=None if settings.selection == "energy" else predicted_error(plan),
        estimates=measurements.estimates,
        preview=settings.preview,
        metric=None if measurements.metric is None else measurements.metric.to_dict(),
        blocks=measurements.blocks,
        weighting="outputs" if measurements.weighed else "none",
    )
    return replace(report, warnings=report_warnings(report, settings, measurements))


def calibration_report(network: Network, calibration: CalibrationSet) -> Calibration:
    """Return what a report says of the samples."""
    preprocessing = calibration.samples.preprocessing
    return Calibration(
        source=calibration.samples.source,
        synthetic=calibration.samples.synthetic,
        images=calibration.images,
        positions_per_image=max(drawn.shape[1] for drawn in calibration.positions.values()),
        provider=network.provider.name,
        preprocessing=None if preprocessing is None else str(preprocessing),
    )


def report_warnings(report: Report, settings: Settings, measurements: Measurements) -> tuple[ReportWarning, ...]:
    """Return the warnings of a report: outputs that are not close, targets that were missed, layers that run slower.

    Args:
        report: of a conversion; its warnings may be missing still.
        settings: what was asked for.
        measurements: of the converted network.
    """
    comparison = measurements.comparison
    poor: tuple[ReportWarning, ...] = ()
    if comparison is not None and (settings.metric is None or settings.max_drop is None):  # else the metric says it
        samples = held_out_text(comparison.images, report.calibration)
        poor = fidelity_warnings(comparison, samples, settings.output_drop)
    missed = missed_targets(report, settings, measurements.latency, measurements.loss)
    return (
        *poor,
        *(ReportWarning("missed-target", text) for text in missed),
        *(ReportWarning("slow", text) for text in measurements.slow),
        *(ReportWarning("runtime", text) for text in measurements.differing),
    )


def _verification(comparison: Comparison, max_drop: float | None) -> dict[str, Any]:
    outputs = comparison.to_dict()["outputs"]
    for name, fidelity in outputs.items():  # of outputs that differ from run to run nothing can be said
        fidelity["close"] = None if name in comparison.random else is_close(fidelity, max_drop)
    return {"images": comparison.images, "outputs": outputs}


def _max_drop(settings: Settings, measurements: Measurements) -> dict[str, Any] | None:
    """Return the entry of ``max_drop`` in the JSON report."""
    search, verified = measurements.search, measurements.loss
    if search is None:
        return None
    by_metric = {} if settings.metric is None else {"drop_type": settings.drop_type}
    return {
        "wanted": settings.max_drop,
        "loss": search.loss.what,
        "speedup": search.speedup,
        "found": search.loss.value,
        "interval": _pair(search.loss),
        "confidence": CONFIDENCE,
        "search_images": search.loss.images,
        "verified_images": None if verified is None else verified.images,
        "verified_drop": None if verified is None else verified.value,
        "verified_interval": _pair(verified),
        "tried": [list(attempt) for attempt in search.tried],
        **by_metric,
    }


def _pair(loss: AccuracyLoss | None) -> list[float] | None:
    return None if loss is None or loss.interval is None else list(loss.interval)


def build_figures(
    network: Network,
    layers: Sequence[Layer],
    losses: Sequence[RankLosses],
    measurements: Measurements,
    file: Path | None = None,
) -> ReportFigures:
    """Build what a page shows beside the numbers of the report.

    Args:
        network: the original.
        layers: its eligible layers.
        losses: of each of them.
        measurements: of the written file; without a comparison for a dry run.
        file: what was written, in a folder of its own; None for a dry run.
    """
    after = None if file is None else sum(path.stat().st_size for path in file.parent.iterdir())
    return ReportFigures(
        kernels={layer.name: tuple(map(int, layer.weight.shape)) for layer in layers},
        energies={
            layer.name: each.energies for layer, each in zip(layers, losses, strict=True) if each.energies is not None
        },
        file_bytes=(_original_bytes(network), after),
        samples=() if measurements.comparison is None else measurements.comparison.samples,
        found=measurements.found,
    )


def warn_of_lost_quantization(layers: LayerSet, plan: RankPlan) -> None:
    """Warn where factorized layers lose the quantization of their weights, and say what that takes.

    Args:
        layers: the network's.
        plan: their ranks.
    """
    lost = [(layer, entry) for layer, entry in plan.factorized(layers.eligible) if layer.compressed]
    if not lost:
        return
    before = sum(layer.stored_bytes for layer, _ in lost)
    after = sum(chain_parameters(layer, entry) * layer.weight.itemsize for layer, entry in lost)
    kinds = ", ".join(sorted({layer.compressed or "" for layer, _ in lost}))
    log.warning(
        "weights of %d layers lose their quantization (%s become %s): %d bytes before, %d after; "
        "`cost='params'` counts bytes, `exclude` lets layers stay",
        len(lost), kinds, lost[0][0].weight.dtype, before, after,
    )  # fmt: skip


def _original_bytes(network: Network) -> int:
    """Return the size of the original's file and of those its weights are in, or of the file that it would make."""
    model, path = network.original, Path(network.name)
    inside = sum(tensor.ByteSize() for tensor in every_tensor(model) if not is_external(tensor))
    own = path.stat().st_size if path.is_file() else model.ByteSize()
    return int(own + stored_bytes(model) - inside)


def _milliseconds(timer: LayerTimer, layer: Layer, entry: LayerPlan) -> tuple[float, float] | None:
    """Return the milliseconds of a layer before and after, where both were measured."""
    both = (LayerPlan(layer.name), entry)
    if not all(timer.known(layer, each) for each in both):
        return None
    before, after = (timer.milliseconds(layer, each) for each in both)
    return before, after
