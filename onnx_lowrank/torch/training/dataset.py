"""The samples that are learned from: which are trained on, which are kept back, and batches of both."""

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
from onnx_lowrank.torch.training.augment import augmented

log = logging.getLogger(__name__)

MOST_HELD_OUT = 2_000
_LEAST_HELD_OUT = 2
_HELD_OUT_KEY = 2**31  # no epoch has this number

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """One of the processes that train together.

    Attributes:
        rank: its number.
        of: how many there are.
    """

    rank: int = 0
    of: int = 1

    def part(self, batch: Ints) -> Ints:
        """The stretch of a batch that is this process's; all are as long, or one sample shorter."""
        return np.array_split(batch, self.of)[self.rank]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one step.

    Attributes:
        inputs: of the network, in its order.
        labels: class of each sample, shape (samples,); None where there are none.
        count: samples of this process.
        total: samples of the step over all processes.
    """

    inputs: list[Tensor]
    labels: Tensor | None
    count: int
    total: int

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        inputs = [each.to(device, non_blocking=True) for each in self.inputs]
        return Batch(inputs, labels, self.count, self.total)


@dataclass(frozen=True, eq=False)
class Lessons:
    """Samples, divided.

    Attributes:
        samples: to train on.
        training: indices of them, in random order.
        judges: samples to choose by; the same as ``samples``, or others.
        held_out: indices of them; none of ``training`` where they are the same.
        inputs: names of the network's inputs, in its order.
        batch_size: samples per step over all processes.
        augment: whether images are flipped and shifted.
        seed: of their order, flips and shifts.
        share: which part of every batch is this process's.
        fixed: samples that the network wants at a time, no more and no less; None for any number.
    """

    samples: Samples
    training: Ints
    judges: Samples
    held_out: Ints
    inputs: tuple[str, ...]
    batch_size: int
    augment: bool
    seed: int
    share: Share
    fixed: int | None = None

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return len(self._batches(self.training))

    @property
    def unseen(self) -> bool:
        """Whether those that judge are samples of their own, which the original has perhaps not seen either."""
        return self.judges is not self.samples

    def epoch(self, number: int) -> Iterator[Batch]:
        """The training samples in an order of their own for every epoch.

        Args:
            number: of the epoch; trials before the first have negative ones.
        """
        order = np.random.default_rng([self.seed, number % 2**32]).permutation(self.training)
        yield from self._read_ahead(self.samples, self._batches(order), number % 2**32)

    def check(self, most: int = MOST_HELD_OUT) -> Iterator[Batch]:
        """The held-out samples, always the same; those kept back flipped and shifted as the others are.

        What the original was trained on it often knows by heart, and the converted network from it. Images that are a
        little different show better what either does with new ones. Samples of their own are taken as they are.

        Args:
            most: of them.
        """
        indices = self.held_out[:most]
        whole = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        yield from self._read_ahead(self.judges, whole, _HELD_OUT_KEY)

    def _batches(self, order: Ints) -> list[Ints]:
        """Whole batches; a rest would be a noisy step, and is all there is only where there are few samples."""
        count = max(1, len(order) // self.batch_size)
        return [order[number * self.batch_size : (number + 1) * self.batch_size] for number in range(count)]

    def _read_ahead(self, samples: Samples, batches: Sequence[Ints], key: int) -> Iterator[Batch]:
        """Batches, the next one read while the last one is in use; those of nothing but damaged images are left out."""
        shown = False
        for batch in prefetch(partial(self._read, samples, key=key), batches, ahead=2):
            if batch is not None:
                shown = True
                yield batch
        if not shown and self.share.of == 1:
            samples.usable(np.concatenate(batches))  # which says that there is none

    def _read(self, samples: Samples, batch: Ints, key: int) -> Batch | None:
        indices = self.share.part(batch)
        if not len(indices):
            return None
        try:
            read = samples.read(indices)
        except CalibrationError:  # of an image that cannot be decoded, perhaps
            indices = self._usable(samples, indices, needed=key != _HELD_OUT_KEY and self.share.of > 1)
            if not len(indices):
                return None
            read = samples.read(indices)
            log.warning("images that cannot be decoded are left out: %s", "; ".join(samples.skipped[:3]))
        if self.augment and not (key == _HELD_OUT_KEY and self.unseen):
            keys = [[self.seed, key, int(index)] for index in indices]
            for name, source in samples.sources.items():
                if isinstance(source, ImageSource):
                    read[name] = augmented(read[name], keys, channels_first=source.layout.channels_first)
        tensors = [torch.from_numpy(np.ascontiguousarray(read[name])) for name in self.inputs]
        labels = None if samples.labels is None else torch.from_numpy(samples.labels[indices])
        total = len(indices) if self.share.of == 1 else len(batch)
        return Batch(
            [each.float() if each.is_floating_point() else each for each in tensors], labels, len(indices), total
        )

    def _usable(self, samples: Samples, indices: Ints, *, needed: bool) -> Ints:
        """Samples that can be read, as many as the network is bound to; others where some are ``needed``."""
        try:
            good = samples.usable(indices)
        except CalibrationError:  # none of them
            if not needed:
                return indices[:0]
            good = samples.usable(self.training[: self.batch_size])
        return np.resize(good, self.fixed) if self.fixed else good


def divide(
    samples: Samples,
    inputs: tuple[str, ...],
    settings: FinetuneSettings,
    share: Share,
    fixed: int | None,
    judges: Samples | None = None,
) -> Lessons:
    """Divide samples at random into those to train on and those to choose by.

    Args:
        samples: the data.
        inputs: names of the network's inputs, in its order.
        settings: how to train.
        share: which of the processes this is.
        fixed: the batch size that the model is bound to; None for any.
        judges: other samples to choose by, at most `MOST_HELD_OUT` of them; None to keep some back.

    Raises:
        CalibrationError: there are too few, or no labels to learn from.
    """
    for each in (samples, judges) if settings.learn != "original" else ():
        if each is not None and each.labels is None:
            raise CalibrationError(
                f"data {each.source}: no class folders to learn labels from: put the images of each class into "
                "a folder, or learn from the original network alone"
            )
    wanted = settings.samples or len(samples)
    step = (fixed or 1) * share.of
    least = max(_LEAST_HELD_OUT, step)
    kept_back = max(least, min(MOST_HELD_OUT, round(settings.held_out * wanted))) if judges is None else 0
    use = "train on and choose by" if judges is None else "train on"
    _check_enough(samples, wanted, max(wanted, kept_back + step), use)
    if judges is not None:
        _check_enough(judges, len(judges), least, "choose by")
    generator = np.random.default_rng(settings.seed)
    order = generator.permutation(len(samples))[:wanted].astype(np.int64)
    held_out = order[:kept_back] if judges is None else generator.permutation(len(judges))[:MOST_HELD_OUT]
    batch_size = step if fixed else max(step, settings.batch_size // step * step)
    whole = len(held_out) // step * step if fixed else len(held_out)
    return Lessons(
        samples=samples,
        training=order[whole if judges is None else 0 :],
        judges=samples if judges is None else judges,
        held_out=held_out[:whole].astype(np.int64),
        inputs=inputs,
        batch_size=batch_size,
        augment=settings.augment,
        seed=settings.seed,
        share=share,
        fixed=fixed,
    )


def _check_enough(samples: Samples, used: int, wanted: int, use: str) -> None:
    if min(len(samples), used) < wanted:
        raise CalibrationError(
            f"data {samples.source}: {len(samples)} samples, {wanted} wanted to {use}: add samples or ask for fewer"
        )
