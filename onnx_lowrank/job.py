"""A conversion under way: what is fixed before the first layer is solved, and its account at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank import cost
from onnx_lowrank.calibrate import (
    Preprocessing,
    Samples,
    Split,
    iterate_batches,
    layer_positions,
    open_samples,
    split_samples,
)
from onnx_lowrank.calibrate.sampling import Ints, draw_positions
from onnx_lowrank.factors import SolveErrors
from onnx_lowrank.layer import Layer, SkippedLayer
from onnx_lowrank.plan import RankPlan
from onnx_lowrank.prepare import Network, check_has_data, choose_layers, open_network
from onnx_lowrank.progress import Progress
from onnx_lowrank.report import Calibration, LayerReport, Report
from onnx_lowrank.runtime import choose_provider
from onnx_lowrank.settings import Settings
from onnx_lowrank.stopwatch import Stopwatch, peak_memory_bytes
from onnx_lowrank.verify import Comparison
from onnx_lowrank.version import __version__

_PROBE_ROWS = 1_500  # rows whose input patches rank selection gets to see
_STAGES = ("collect", "ranks", "propagate", "solve", "verify")


@dataclass(frozen=True, eq=False)
class Job:
    """A conversion under way: what is fixed before the first layer is solved.

    Attributes:
        network: the original.
        samples: the data.
        split: which samples are used for what.
        one_batch: the smallest batch the model takes, whose sizes stand for all.
        layers: those up for factorization, in the order they are converted.
        skipped: those that stay.
        positions: per layer name, sampled positions of every calibration image, shape (images, P).
        probes: per layer name, which of them also have their input patch kept for rank selection.
        settings: how to convert.
        progress: watches the stages.
        watch: seconds by stage.
    """

    network: Network
    samples: Samples
    split: Split
    one_batch: dict[str, NDArray[Any]]
    layers: list[Layer]
    skipped: list[SkippedLayer]
    positions: Mapping[str, Ints]
    probes: Mapping[str, Ints]
    settings: Settings
    progress: Progress
    watch: Stopwatch

    @property
    def every_layer(self) -> list[Layer | SkippedLayer]:
        """Layers up for factorization, then those that stay."""
        return [*self.layers, *self.skipped]

    def batches(self, indices: Any, stage: str) -> Iterator[dict[str, Any]]:
        """Samples as batches, counted as progress of a stage."""
        total = -(-len(indices) // self.split.batch_size)
        return iter(self.progress.track(iterate_batches(self.samples, indices, self.split.batch_size), stage, total))

    def planned_macs(self, plan: RankPlan) -> list[int]:
        """Multiply-adds per image of every layer as planned, then of every skipped one."""
        planned = [cost.chain_macs(layer, entry) for layer, entry in zip(self.layers, plan, strict=True)]
        return planned + [layer.macs for layer in self.skipped]


def prepare_job(
    model: str | Path | onnx.ModelProto,
    data: Any,
    settings: Settings,
    preprocessing: Preprocessing,
    progress: Progress,
) -> Job:
    """Everything up to the first full pass: model, data, layers, sampled positions."""
    watch = Stopwatch()
    provider = choose_provider(settings.provider, settings.threads)
    network = open_network(model, provider, settings.input_shapes)
    check_has_data(data)
    samples = open_samples(data, network.inputs, preprocessing)
    generator = np.random.default_rng(settings.seed)
    split = split_samples(samples, network.inputs, generator, settings.samples, settings.batch_size)
    fixed = network.inputs[0].shape[0] if network.inputs[0].shape else None
    one_batch = samples.read(split.calibration[: fixed or 1])
    layers, skipped = choose_layers(*network.layers(one_batch), settings.include, settings.exclude)
    positions = layer_positions(layers, len(split.calibration), settings.positions, settings.seed)
    probes = _probes(layers, positions, settings)
    return Job(network, samples, split, one_batch, layers, skipped, positions, probes, settings, progress, watch)


def _probes(layers: list[Layer], positions: Mapping[str, Ints], settings: Settings) -> dict[str, Ints]:
    """A few of every image's positions, for the layers where spatial ranks come into question."""
    if settings.plan is None and settings.method == "channel":
        return {}
    probes = {}
    for number, layer in enumerate(layers):
        images, count = positions[layer.name].shape
        if max(layer.kernel) > 1:
            generator = np.random.default_rng([settings.seed, number, 1])
            probes[layer.name] = draw_positions(generator, 1, count, ceil(_PROBE_ROWS / images))[0]
    return probes


def account(
    job: Job,
    plan: RankPlan,
    errors: Mapping[str, SolveErrors] | None = None,
    comparison: Comparison | None = None,
    passes: float = 0.0,
    output: str | Path | None = None,
) -> Report:
    """The report of a conversion.

    Args:
        job: the conversion.
        plan: its ranks.
        errors: of the solved layers by name; None for a dry run, as for all that follows.
        comparison: of the written file with the original.
        passes: of the converted network over the calibration set.
        output: path written.
    """
    errors = errors or {}
    macs = job.planned_macs(plan)
    entries = list(zip(job.layers, plan, macs, strict=False))  # the rest of macs is that of the skipped layers
    layers = [LayerReport.of_planned(layer, entry, after, errors.get(layer.name)) for layer, entry, after in entries]
    rows = {report.name: report for report in (*layers, *map(LayerReport.of_skipped, job.skipped))}
    before = job.every_layer
    parameters = [cost.chain_parameters(layer, entry) for layer, entry, _ in entries]
    images, looked_at = len(job.split.calibration), len(next(iter(job.one_batch.values())))
    return Report(
        version=__version__,
        seed=job.settings.seed,
        input=job.network.name,
        output=None if output is None else str(output),
        requested=None if job.settings.plan else job.settings.speedup,
        macs=(sum(layer.macs for layer in before), sum(macs)),
        parameters=(
            sum(layer.parameters for layer in before),
            sum(parameters) + sum(layer.parameters for layer in job.skipped),
        ),
        calibration=Calibration(
            source=job.samples.source,
            synthetic=False,
            images=images,
            positions_per_image=max(drawn.shape[1] for drawn in job.positions.values()),
            provider=job.network.provider.name,
        ),
        layers=tuple(rows[name] for name in job.network.order if name in rows),
        verification=None
        if comparison is None
        else {"images": comparison.images, "outputs": comparison.to_dict()["outputs"]},
        forward_passes={"original": (images + looked_at) / images, "converted": passes},
        seconds=job.watch.seconds(_STAGES),
        peak_memory_bytes=peak_memory_bytes(),
    )
