"""The account of a conversion: all that was planned, solved and measured, as a report and as evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx_lowrank.calibrate.calibration import Job
from onnx_lowrank.graph.tensors import every_tensor, is_external, stored_bytes
from onnx_lowrank.layers import cost
from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.ranks.search import Search
from onnx_lowrank.report import Calibration, LayerReport, Report, ReportFigures
from onnx_lowrank.runtime.latency import Latency
from onnx_lowrank.runtime.stopwatch import peak_memory_bytes
from onnx_lowrank.verify import CONFIDENCE, AccuracyLoss, Comparison
from onnx_lowrank.version import __version__

_STAGES = ("collect", "ranks", "propagate", "solve", "verify", "bench")
_STAGES_OF_SEARCH = ("collect", "ranks", "search", "verify", "bench")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a plan; nothing for a dry run.

    Attributes:
        errors: of the solved layers by name.
        passes: of the converted network over the calibration set.
        comparison: of the written file with the original.
        latency: of both; None where it was not measured.
        search: what was searched for the speedup; None where it was given.
        drop: of what was found, on samples that nothing was searched with; None likewise, and for a dry run.
    """

    errors: Mapping[str, SolveErrors] = field(default_factory=dict)
    passes: float = 0.0
    comparison: Comparison | None = None
    latency: Latency | None = None
    search: Search[None] | None = None
    drop: AccuracyLoss | None = None


def account(job: Job, plan: RankPlan, outcome: Outcome, output: str | Path | None = None) -> Report:
    """The report of a conversion.

    Args:
        job: the conversion.
        plan: its ranks.
        outcome: what came of them.
        output: path written.
    """
    macs = job.planned_macs(plan)
    entries = list(zip(job.layers, plan, macs, strict=False))  # the rest of macs is that of the skipped layers
    layers = [
        LayerReport.of_planned(layer, entry, after, outcome.errors.get(layer.name), _milliseconds(job, layer, entry))
        for layer, entry, after in entries
    ]
    rows = [*layers, *map(LayerReport.of_skipped, job.skipped)]
    before = job.every_layer
    parameters = [cost.chain_parameters(layer, entry) for layer, entry, _ in entries]
    images, looked_at = len(job.split.calibration), len(next(iter(job.one_batch.values())))
    comparison, latency = outcome.comparison, outcome.latency
    return Report(
        version=__version__,
        seed=job.settings.seed,
        input=job.network.name,
        output=None if output is None else str(output),
        requested=None if job.settings.plan or outcome.search else job.settings.speedup,
        macs=(sum(layer.macs for layer in before), sum(macs)),
        parameters=(
            sum(layer.parameters for layer in before),
            sum(parameters) + sum(layer.parameters for layer in job.skipped),
        ),
        calibration=Calibration(
            source=job.samples.source,
            synthetic=job.samples.synthetic,
            images=images,
            positions_per_image=max(drawn.shape[1] for drawn in job.positions.values()),
            provider=job.network.provider.name,
        ),
        layers=tuple(job.network.in_order(rows)),
        verification=None
        if comparison is None
        else {"images": comparison.images, "outputs": comparison.to_dict()["outputs"]},
        forward_passes={"original": (images + looked_at) / images, "converted": outcome.passes},
        seconds=job.watch.seconds(_STAGES_OF_SEARCH if outcome.search else _STAGES),
        peak_memory_bytes=peak_memory_bytes(),
        latency=None if latency is None else latency.to_dict(),
        max_drop=_max_drop(job, outcome.search, outcome.drop),
    )


def _max_drop(job: Job, search: Search[None] | None, verified: AccuracyLoss | None) -> dict[str, Any] | None:
    """The entry of ``max_drop`` in the JSON report."""
    if search is None:
        return None
    return {
        "wanted": job.settings.max_drop,
        "loss": search.drop.what,
        "speedup": search.speedup,
        "found": search.drop.value,
        "interval": _pair(search.drop),
        "confidence": CONFIDENCE,
        "search_images": search.drop.images,
        "verified_images": None if verified is None else verified.images,
        "verified_drop": None if verified is None else verified.value,
        "verified_interval": _pair(verified),
        "tried": [list(each) for each in search.tried],
    }


def _pair(drop: AccuracyLoss | None) -> list[float] | None:
    return None if drop is None or drop.interval is None else list(drop.interval)


def figures(
    job: Job, losses: Sequence[RankLosses], comparison: Comparison | None = None, file: Path | None = None
) -> ReportFigures:
    """What a page shows beside the numbers of the report.

    Args:
        job: the conversion.
        losses: of each of its layers.
        comparison: of the written file with the original; None for a dry run.
        file: what was written, in a folder of its own; likewise.
    """
    looked_at = zip(job.layers, losses, strict=True)
    after = None if file is None else sum(each.stat().st_size for each in file.parent.iterdir())
    return ReportFigures(
        kernels={layer.name: tuple(map(int, layer.weight.shape)) for layer in job.layers},
        energies={layer.name: each.energies for layer, each in looked_at if each.energies is not None},
        file_bytes=(_original_bytes(job), after),
        samples=() if comparison is None else comparison.samples,
    )


def _original_bytes(job: Job) -> int:
    """Of the original's file and of those its weights are in; of what a file would hold where there is none."""
    model, path = job.network.original, Path(job.network.name)
    inside = sum(each.ByteSize() for each in every_tensor(model) if not is_external(each))
    own = path.stat().st_size if path.is_file() else model.ByteSize()
    return int(own + stored_bytes(model) - inside)


def _milliseconds(job: Job, layer: Layer, entry: LayerPlan) -> tuple[float, float] | None:
    """Of a layer before and after, where both were measured."""
    both = (LayerPlan(layer.name), entry)
    if not all(job.clock.known(layer, each) for each in both):
        return None
    before, after = (job.clock.milliseconds(layer, each) for each in both)
    return before, after
