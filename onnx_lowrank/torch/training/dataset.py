"""The samples of a fine-tuning: which are trained on, which are held out, and batches of both."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank.calibrate import ImageSource, Samples, prefetch
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch.training.augment import augment_images

log = logging.getLogger(__name__)

MAX_HELD_OUT = 2_000
_MIN_HELD_OUT = 2
_MIN_BATCH, _MAX_BATCH = 16, 128  # normalization wants the former; larger ones than the latter gain little
_STEPS_PER_EPOCH = 16
_HELD_OUT_KEY = 2**31  # takes the place of the epoch's number in random keys; no epoch has this number

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one process trains on.

    Attributes:
        rank: number of the process.
        count: processes that train together.
    """

    rank: int = 0
    count: int = 1

    def part(self, batch: Ints) -> Ints:
        """Return this process's stretch of a batch; stretches differ by one sample at most."""
        return np.array_split(batch, self.count)[self.rank]


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of one step.

    Attributes:
        inputs: tensors in the order of the network's inputs, the first axis is that of samples.
        labels: class of each sample, shape (samples,); None where there are none.
        count: samples of this process.
        total: samples of the step over all processes.
    """

    inputs: list[Tensor]
    labels: Tensor | None
    count: int
    total: int

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        inputs = [tensor.to(device, non_blocking=True) for tensor in self.inputs]
        return Batch(inputs, labels, self.count, self.total)


@dataclass(frozen=True, eq=False)
class DistillationData:
    """Samples, split into those to train on and those to evaluate on.

    Attributes:
        samples: contain the training samples.
        training: indices into ``samples``, in random order.
        validation: contain the held-out samples; the same object as ``samples``, or a data set of its own.
        held_out: indices into ``validation``; disjoint from ``training`` where both are the same data set.
        inputs: names of the network's inputs, in its order.
        batch_size: samples per step over all processes.
        augment: whether images are flipped and shifted.
        seed: of the order, flips and shifts.
        shard: the part of every batch that this process reads.
        fixed_batch: batch size that the model is bound to; None for any.
        classes: that the network scores and labels count; 0 without labels.
    """

    samples: Samples
    training: Ints
    validation: Samples
    held_out: Ints
    inputs: tuple[str, ...]
    batch_size: int
    augment: bool
    seed: int
    shard: Shard
    fixed_batch: int | None = None
    classes: int = 0

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return len(self._full_batches(self.training))

    @property
    def has_own_validation(self) -> bool:
        """Whether held-out samples are a data set of their own, which the original was perhaps not trained on."""
        return self.validation is not self.samples

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the training samples, in a different order in every epoch.

        Args:
            number: of the epoch; trials before the first have negative ones.
        """
        order = np.random.default_rng([self.seed, number % 2**32]).permutation(self.training)
        yield from self._read_ahead(self.samples, self._full_batches(order), number % 2**32)

    def held_out_batches(self, limit: int = MAX_HELD_OUT) -> Iterator[Batch]:
        """Yield the held-out samples, always the same and in the same order.

        Those held out of the training data are flipped and shifted like the others: the original often knows by heart
        what it was trained on, and the converted network learns that from it. Slightly different images show better how
        either does on new ones. Validation data of its own is taken as it is.

        Args:
            limit: samples at most.
        """
        indices = self.held_out[:limit]
        batches = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        yield from self._read_ahead(self.validation, batches, _HELD_OUT_KEY)

    def _full_batches(self, order: Ints) -> list[Ints]:
        """Return full batches only, as a smaller one would be a noisy step; a single one if there are too few."""
        count = max(1, len(order) // self.batch_size)
        return [order[number * self.batch_size : (number + 1) * self.batch_size] for number in range(count)]

    def _read_ahead(self, samples: Samples, batches: Sequence[Ints], key: int) -> Iterator[Batch]:
        """Yield batches, reading the next one while one is in use; batches without a readable image are left out."""
        any_read = False
        for batch in prefetch(partial(self._read, samples, key=key), batches, ahead=2):
            if batch is not None:
                any_read = True
                yield batch
        if not any_read and self.shard.count == 1:
            samples.usable(np.concatenate(batches))  # raises: none can be decoded

    def _read(self, samples: Samples, batch: Ints, key: int) -> Batch | None:
        """Read this process's part of a batch; None if no sample of it can be read."""
        indices = self.shard.part(batch)
        if not len(indices):
            return None
        try:
            arrays = samples.read(indices)
        except CalibrationError:  # perhaps because of an image that cannot be decoded
            indices = self._usable(samples, indices, needed=key != _HELD_OUT_KEY and self.shard.count > 1)
            if not len(indices):
                return None
            arrays = samples.read(indices)
            log.warning("images that cannot be decoded are left out: %s", "; ".join(samples.skipped[:3]))
        if self.augment and not (key == _HELD_OUT_KEY and self.has_own_validation):
            keys = [[self.seed, key, int(index)] for index in indices]
            for name, source in samples.sources.items():
                if isinstance(source, ImageSource):
                    arrays[name] = augment_images(arrays[name], keys, channels_first=source.layout.channels_first)
        tensors = [torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.inputs]
        inputs = [tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors]
        labels = None if samples.labels is None else torch.from_numpy(samples.labels[indices])
        return Batch(inputs, labels, len(indices), len(indices) if self.shard.count == 1 else len(batch))

    def _usable(self, samples: Samples, indices: Ints, *, needed: bool) -> Ints:
        """Return those of ``indices`` that can be read, filled up to a fixed batch size; others if some are needed."""
        try:
            usable = samples.usable(indices)
        except CalibrationError:  # none of them
            if not needed:
                return indices[:0]
            usable = samples.usable(self.training[: self.batch_size])
        return np.resize(usable, self.fixed_batch) if self.fixed_batch else usable


def split(
    samples: Samples,
    inputs: tuple[str, ...],
    settings: FinetuneSettings,
    shard: Shard,
    fixed_batch: int | None,
    validation: Samples | None = None,
) -> DistillationData:
    """Split samples at random into those to train on and those to evaluate on.

    Args:
        samples: the data.
        inputs: names of the network's inputs, in its order.
        settings: how to train.
        shard: of this process.
        fixed_batch: batch size that the model is bound to; None for any.
        validation: other samples to evaluate on, at most `MAX_HELD_OUT` of them; None to hold some of ``samples`` out.

    Raises:
        CalibrationError: there are too few samples, or no labels to learn from.
    """
    _check_has_labels(samples, validation, settings)
    count = settings.samples or len(samples)
    step = (fixed_batch or 1) * shard.count
    minimum = max(_MIN_HELD_OUT, step)
    generator = np.random.default_rng(settings.seed)
    training = generator.permutation(len(samples))[:count].astype(np.int64)
    if validation is None:
        held_out_count = max(minimum, min(MAX_HELD_OUT, round(settings.held_out * count)))
        _check_enough(samples, count, max(count, held_out_count + step), "train on and choose by")
        held_out = training[:held_out_count]
    else:
        _check_enough(samples, count, max(count, step), "train on")
        _check_enough(validation, len(validation), minimum, "choose by")
        held_out = generator.permutation(len(validation))[:MAX_HELD_OUT].astype(np.int64)
    held_out = held_out[: len(held_out) // step * step] if fixed_batch else held_out
    return DistillationData(
        samples=samples,
        training=training[len(held_out) :] if validation is None else training,
        validation=samples if validation is None else validation,
        held_out=held_out,
        inputs=inputs,
        batch_size=step if fixed_batch else max(step, (settings.batch_size or default_batch(count)) // step * step),
        augment=settings.augment,
        seed=settings.seed,
        shard=shard,
        fixed_batch=fixed_batch,
    )


def default_batch(samples: int) -> int:
    """Return how many samples to take a step on: enough for steady steps, and few enough for an epoch of some steps."""
    return max(_MIN_BATCH, min(_MAX_BATCH, samples // _STEPS_PER_EPOCH))


def _check_has_labels(samples: Samples, validation: Samples | None, settings: FinetuneSettings) -> None:
    if settings.learn == "original":
        return
    for data in (samples, validation):
        if data is not None and data.labels is None:
            raise CalibrationError(
                f"data {data.source}: no class folders to learn labels from: put the images of each class into "
                "a folder, or learn from the original network alone"
            )


def _check_enough(samples: Samples, used: int, minimum: int, use: str) -> None:
    if min(len(samples), used) < minimum:
        raise CalibrationError(
            f"data {samples.source}: {len(samples)} samples, {minimum} wanted to {use}: add samples or ask for fewer"
        )
