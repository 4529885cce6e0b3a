"""A conversion under way: what is fixed before the first layer is solved, and what is measured for every target."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate import (
    Preprocessing,
    Samples,
    Split,
    default_batch,
    iterate_batches,
    layer_positions,
    open_samples,
    split_samples,
    synthetic_samples,
)
from onnx_lowrank.calibrate.positions import Ints, draw_positions
from onnx_lowrank.calibrate.split import MOST_HELD_OUT, MOST_SEARCHED, MOST_VERIFIED
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph import read_input_statistics
from onnx_lowrank.graph.eligible import choose_layers, leave_narrow_groups
from onnx_lowrank.graph.tensors import stored_bytes
from onnx_lowrank.layers import cost
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.runtime.layer_latency import LayerTimer
from onnx_lowrank.runtime.network import Feeds, Network, open_network
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.runtime.stopwatch import Stopwatch
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve.device import SolverDevice

log = logging.getLogger(__name__)

_ROWS_AT_LEAST = 10  # per filter: with fewer, the solver fits noise
_PROBE_ROWS = 1_500  # rows whose input patches rank selection gets to see
_QUICK_IMAGES = 100  # with fewer, quick solving takes them all


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
        clock: milliseconds of layers.
        latency_batch: samples per run where latency is measured.
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
    clock: LayerTimer
    latency_batch: int

    @property
    def every_layer(self) -> list[Layer | SkippedLayer]:
        """Layers up for factorization, then those that stay."""
        return [*self.layers, *self.skipped]

    def batches(self, indices: Any, stage: str) -> Iterator[dict[str, Any]]:
        """Samples as batches, counted as progress of a stage."""
        total = -(-len(indices) // self.split.batch_size)
        return iter(self.progress.track(iterate_batches(self.samples, indices, self.split.batch_size), stage, total))

    def truth(self, indices: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Classes of samples, where they are to be judged by them."""
        return self.samples.labels[indices] if self.settings.labels and self.samples.labels is not None else None

    def planned_macs(self, plan: RankPlan) -> list[int]:
        """Multiply-adds per image of every layer as planned, then of every skipped one."""
        planned = [cost.chain_macs(layer, entry) for layer, entry in zip(self.layers, plan, strict=True)]
        return planned + [layer.macs for layer in self.skipped]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What is measured once for all targets.

    Attributes:
        job: the conversion, with the settings of one target.
        targets: what the original network delivers, by layer name.
        losses: what pairs of ranks cost each layer in accuracy.
        place: where layers are solved.
    """

    job: Job
    targets: dict[str, TargetResponses]
    losses: list[RankLosses]
    place: SolverDevice

    def at(self, speedup: float) -> Calibrated:
        """The same for another speedup, with a stopwatch of its own."""
        settings = replace(self.job.settings, speedup=speedup)
        return replace(self, job=replace(self.job, settings=settings, watch=Stopwatch()))

    def quick(self) -> Calibrated:
        """The same, to be solved in less time: on half of the images.

        All images stay where half of them are few, or too few for a layer with a row per image.
        """
        job = self.job
        images = len(job.split.calibration) // 2
        images -= images % len(next(iter(job.one_batch.values())))
        if images < _QUICK_IMAGES or _with_enough_rows(job.layers, [], images)[1]:
            return self
        rows = {name: images * drawn.shape[1] for name, drawn in job.positions.items()}
        split = replace(job.split, calibration=job.split.calibration[:images])
        positions = {name: drawn[:images] for name, drawn in job.positions.items()}
        targets = {name: found.first(rows[name]) for name, found in self.targets.items()}
        return replace(self, job=replace(job, split=split, positions=positions), targets=targets)


def prepare_job(
    model: str | Path | onnx.ModelProto,
    data: Any,
    settings: Settings,
    preprocessing: Preprocessing,
    progress: Progress,
    held_out: int = MOST_HELD_OUT,
) -> Job:
    """Everything up to the first full pass: model, data, layers, sampled positions.

    Args:
        model: path, or a model.
        data: sample inputs; None for made-up images.
        settings: how to convert.
        preprocessing: of images.
        progress: watches the stages.
        held_out: samples to verify with, at most.

    Raises:
        ModelError: the model cannot be read or run, or there is nothing in it to factorize.
        CalibrationError: the data cannot be used, or have no class folders where labels are wanted.
    """
    watch = Stopwatch()
    provider = choose_provider(settings.provider, settings.threads)
    network = open_network(model, provider, settings.input_shapes, settings.constant_inputs)
    samples = _samples(network, data, preprocessing, settings)
    generator = np.random.default_rng(settings.seed)
    most = (held_out, 0) if settings.max_drop is None else (MOST_VERIFIED, MOST_SEARCHED)
    batch_size = settings.batch_size or default_batch(network.sampled, provider.batch_elements)
    split = split_samples(samples, network.sampled, generator, settings.samples, batch_size, *most)
    first = network.sampled[0]
    fixed = first.shape[0] if first.shape else None
    one_batch = samples.read(split.calibration[: fixed or 1])
    if not fixed and split.batch_size > 1 and len(split.calibration) > 1:
        split = _within_reach(network, split, one_batch, samples.read(split.calibration[:2]))
    found = network.layers(one_batch)
    if settings.plan is None:
        found = _with_enough_rows(*leave_narrow_groups(*found), len(split.calibration))
    layers, skipped = choose_layers(*found, settings.include, settings.exclude)
    positions = layer_positions(layers, len(split.calibration), settings.positions, settings.seed)
    probes = _probes(layers, positions, settings)
    batch = _latency_batch(network, settings, fixed)
    clock = LayerTimer(provider, batch, settings.latency_table, stored_bytes(network.model))
    return Job(
        network, samples, split, one_batch, layers, skipped, positions, probes, settings, progress, watch, clock, batch
    )


def _samples(network: Network, data: Any, preprocessing: Preprocessing, settings: Settings) -> Samples:
    """The data, or made-up images where there are none; said aloud."""
    if data is not None:
        samples = open_samples(data, network.inputs, preprocessing)
        if settings.labels and samples.labels is None:
            raise CalibrationError(f"data {samples.source}: no class folders, which --labels reads: drop --labels")
        return samples
    if settings.labels:
        raise CalibrationError("data: none given, --labels reads their class folders: pass --data or drop --labels")
    found = {spec.name: read_input_statistics(network.model, spec.name) for spec in network.sampled}
    first = {name: each for name, each in found.items() if each is not None}
    samples = synthetic_samples(network.inputs, preprocessing, settings.seed, first)
    log.warning(
        "no data: made-up images take their place, real ones do better: pass --data with some of what it is for"
    )
    return samples


def _within_reach(network: Network, split: Split, one: Feeds, two: Feeds) -> Split:
    """The split with single samples as batches where the network takes no others."""
    if network.takes_batches(one, two):
        return split
    log.info("the network takes one sample at a time, although its inputs say otherwise")
    return replace(split, batch_size=1)


def _latency_batch(network: Network, settings: Settings, fixed: int | None) -> int:
    """Samples per run where latency is measured: as the model or ``--input-shapes`` says, else one."""
    shapes = settings.input_shapes
    shape = shapes.get(network.sampled[0].name) or shapes.get("")
    return fixed or (shape[0] if shape else 1)


def _with_enough_rows(
    layers: list[Layer], skipped: list[SkippedLayer], images: int
) -> tuple[list[Layer], list[SkippedLayer]]:
    """Leave out layers with a row or so per image where so few images say too little; others have rows enough."""
    kept = []
    for layer in layers:
        rows = images * prod(layer.positions)
        once = layer.channels_last or prod(layer.positions) == 1
        if once and rows < _ROWS_AT_LEAST * layer.filters:
            reason = f"{rows} rows of samples are too few for {layer.filters} filters: {_ROWS_AT_LEAST} each are wanted"
            skipped = [*skipped, layer.stays(reason)]
        else:
            kept.append(layer)
    return kept, skipped


def _probes(layers: list[Layer], positions: Mapping[str, Ints], settings: Settings) -> dict[str, Ints]:
    """A few of every image's positions, for the layers where spatial ranks come into question."""
    if settings.plan is None and settings.method == "channel":
        return {}
    probes = {}
    for number, layer in enumerate(layers):
        images, count = positions[layer.name].shape
        if layer.separable:
            generator = np.random.default_rng([settings.seed, number, 1])
            probes[layer.name] = draw_positions(generator, 1, count, ceil(_PROBE_ROWS / images))[0]
    return probes
