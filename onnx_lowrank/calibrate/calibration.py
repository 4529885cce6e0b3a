"""The samples of a conversion: opened, split, and sampled at seeded positions of every layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.preprocess import Preprocessing
from onnx_lowrank.calibrate.data.samples import Samples, iterate_batches, open_samples, synthetic_samples
from onnx_lowrank.calibrate.positions import Ints, draw_positions, layer_positions
from onnx_lowrank.calibrate.split import (
    MAX_CALIBRATION_SAMPLES,
    MAX_HELD_OUT_SAMPLES,
    MAX_PREVIEW_SAMPLES,
    MAX_SEARCH_SAMPLES,
    MAX_VERIFICATION_SAMPLES,
    Split,
    default_batch,
    split_samples,
)
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph import read_input_statistics
from onnx_lowrank.graph.eligible import too_few_rows
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network, Shape
from onnx_lowrank.runtime.progress import track_samples
from onnx_lowrank.settings import Settings

log = logging.getLogger(__name__)

_PROBED_ROWS = 3_000  # rows whose patches rank selection sees; a fifth of them judges, and of 1,500 that is noisy

# Rows whose patches tell which channels are missed least; with few the choice fits noise.
_MAX_WIDTH_ROWS = 12_000
_MAX_WIDTH_BYTES = 2**25
_MIN_ROWS_PER_CHANNEL = 4
_MIN_QUICK_IMAGES = 100  # a quick conversion never solves with fewer


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """The samples of a conversion and what each is used for.

    Attributes:
        samples: the data.
        split: which samples are used for what.
        one_batch: the smallest batch the network takes, by input name; its sizes stand for all.
        two: shapes of tensors for one sample and for two, by name; None where the network does not run on two.
        labels: whether outputs are judged by the class folders of the data.
        positions: per layer name, sampled positions of every calibration image, shape (images, P).
        probes: per layer name, which of them also have their input patch kept for rank selection, shape (p,).
    """

    samples: Samples
    split: Split
    one_batch: dict[str, NDArray[Any]]
    two: Mapping[str, tuple[Shape, Shape]] | None = None
    labels: bool = False
    positions: Mapping[str, Ints] = field(default_factory=dict)
    probes: Mapping[str, Ints] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Number of samples to solve with."""
        return len(self.split.calibration)

    @property
    def smallest_batch(self) -> int:
        """Number of samples that the network takes at a time, at least."""
        return len(next(iter(self.one_batch.values())))

    def batches(self, indices: NDArray[np.int64], monitor: Monitor, stage: str) -> Iterator[dict[str, Any]]:
        """Iterate over samples in batches, counted as progress of a stage."""
        batches = iterate_batches(self.samples, indices, self.split.batch_size)
        return track_samples(monitor, batches, stage, len(indices))

    def several(self) -> dict[str, NDArray[Any]]:
        """Return a batch of two samples, or of one where the network takes no more, or as many as it takes."""
        return self.one_batch if self.two is None else self.samples.read(self.split.calibration[:2])

    def one_by_one(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Iterate over the samples to solve with in the smallest batches that the network takes."""
        return iterate_batches(self.samples, self.split.calibration, self.smallest_batch)

    def truth(self, indices: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the classes of samples, where outputs are judged by them."""
        return self.samples.labels[indices] if self.labels and self.samples.labels is not None else None

    def repeated(self, count: int) -> dict[str, NDArray[Any]]:
        """Return one batch of ``count`` calibration samples, repeated where there are too few."""
        return self.samples.read(np.resize(self.split.calibration, count))

    def with_positions(self, layers: Sequence[Layer], settings: Settings) -> CalibrationSet:
        """Return the same samples with positions drawn for layers.

        Args:
            layers: the layers to sample.
            settings: number of positions, seed, how thorough to be, and whether spatial ranks come into question.
        """
        thorough = settings.refine == "full"
        positions = layer_positions(layers, self.images, settings.positions, settings.seed, thorough=thorough)
        narrowed = [layer for layer in layers if settings.leaves_channels_out(layer)]
        readers = {name for layer in narrowed for group in layer.read_groups for name in group.readers}
        readers.update(layer.name for layer in narrowed)
        rows = {each.name: _probed_rows(each, settings, for_width=each.name in readers) for each in layers}
        probes = probe_positions(layers, positions, rows, settings.seed)
        return replace(self, positions=positions, probes=probes)

    def with_half_the_images(self, layers: Sequence[Layer]) -> CalibrationSet:
        """Return the first half of the calibration images, in whole batches.

        All images stay where half of them are few, or too few for a layer with one row per image.
        """
        images = self.images // 2
        images -= images % self.smallest_batch
        if images < _MIN_QUICK_IMAGES or any(too_few_rows(layer, images) for layer in layers):
            return self
        return self.first_images(images)

    def first_images(self, images: int) -> CalibrationSet:
        """Return the first calibration images, no more than ``images``, in whole batches and at least one."""
        count = max(images - images % self.smallest_batch, self.smallest_batch)
        split = replace(self.split, calibration=self.split.calibration[:count])
        return replace(self, split=split, positions={name: drawn[:count] for name, drawn in self.positions.items()})

    def with_refinement(self) -> CalibrationSet:
        """Return the set with a tenth of the calibration images set aside, to judge a refinement of blocks by.

        It stays as it is where images are too few for that.
        """
        split = self.split.with_refinement(self.smallest_batch)
        if not len(split.refinement):
            return self
        return replace(self.first_images(len(split.calibration)), split=split)

    def rows_of(self, targets: Mapping[str, TargetResponses]) -> dict[str, TargetResponses]:
        """Return the rows that belong to the calibration images, which come first, without probes, in a new dictionary.

        Args:
            targets: sampled responses by layer name, of these images or of more.
        """
        return {name: each.first(self.positions[name].size) for name, each in targets.items()}


def calibration_set(
    network: Network,
    data: Any,
    preprocessing: Preprocessing | None,
    settings: Settings,
    max_held_out: int = MAX_HELD_OUT_SAMPLES,
) -> CalibrationSet:
    """Open and split the samples of a conversion.

    Args:
        network: what they are fed to.
        data: sample inputs; None for synthetic images.
        preprocessing: of images; pixels / 255 if not given.
        settings: how to convert.
        max_held_out: samples to verify with, at most; a search for ``max_drop`` has limits of its own.

    Raises:
        CalibrationError: the data cannot be used, or have no class folders where labels are wanted.
    """
    samples = _open(network, data, preprocessing, settings)
    generator = np.random.default_rng(settings.seed)
    limits = (max_held_out, 0) if settings.max_drop is None else (MAX_VERIFICATION_SAMPLES, MAX_SEARCH_SAMPLES)
    batch_size = settings.batch_size or default_batch(network.sampled, network.provider.batch_elements)
    most = MAX_PREVIEW_SAMPLES if settings.preview else MAX_CALIBRATION_SAMPLES
    split = split_samples(samples, network.sampled, generator, settings.samples, batch_size, *limits, most)
    one_batch = samples.read(split.calibration[: network.fixed_batch or 1])
    two = None
    if not network.fixed_batch and split.batch_size > 1 and len(split.calibration) > 1:
        two = network.shapes_of_two(one_batch, samples.read(split.calibration[:2]))
        if two is None:
            log.info("the network takes one sample at a time, although its inputs say otherwise")
            split = replace(split, batch_size=1)
    return CalibrationSet(samples, split, one_batch, two, settings.labels)


def _probed_rows(layer: Layer, settings: Settings, *, for_width: bool) -> int:
    """Return how many rows of a layer have their input patch kept, to choose ranks, and widths where asked for."""
    spatial = settings.plan is not None or not {"spatial", "spatial-channel"}.isdisjoint(settings.methods)
    measured = (spatial and layer.separable) or settings.mixes_inputs(layer)
    rows = _PROBED_ROWS if measured and not layer.depthwise else 0
    if for_width:
        affordable = min(_MAX_WIDTH_ROWS, _MAX_WIDTH_BYTES // (4 * layer.weight[0].size))
        rows = max(rows, affordable, _MIN_ROWS_PER_CHANNEL * layer.channels)
    return rows


def probe_positions(
    layers: Sequence[Layer], positions: Mapping[str, Ints], rows: Mapping[str, int], seed: int
) -> dict[str, Ints]:
    """Draw a few of the sampled positions of every image.

    Args:
        layers: in the order of the conversion; each has a random stream of its own.
        positions: sampled positions by layer name, shape (images, P).
        rows: how many to draw of all images together by layer name; 0 for none.
        seed: of the drawing.

    Returns:
        By layer name, which of the P positions, ascending, shape (p,).
    """
    probes = {}
    for number, layer in enumerate(layers):
        images, count = positions[layer.name].shape
        if rows[layer.name]:
            generator = np.random.default_rng([seed, number, 1])
            probes[layer.name] = draw_positions(generator, 1, count, ceil(rows[layer.name] / images))[0]
    return probes


def _open(network: Network, data: Any, preprocessing: Preprocessing | None, settings: Settings) -> Samples:
    """Open the data, or make synthetic images where there are none, with a warning."""
    if data is not None:
        samples = open_samples(data, network.inputs, preprocessing, network.held, settings.class_names)
        if settings.labels:
            samples.check_has_labels()
        return samples
    if settings.labels:
        raise CalibrationError("data: none given, `labels` reads their class folders: pass `data` or drop `labels`")
    statistics = {spec.name: read_input_statistics(network.model, spec.name) for spec in network.sampled}
    known = {name: each for name, each in statistics.items() if each is not None}
    samples = synthetic_samples(network.inputs, preprocessing, settings.seed, known)
    log.warning(
        "no data: synthetic images take their place, real ones do better: pass `data` with some of what it is for"
    )
    return samples
