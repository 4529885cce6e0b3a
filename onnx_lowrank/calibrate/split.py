"""Choose the samples that a conversion calibrates, searches and verifies with, and the batch size."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.samples import Samples
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec, fixed_batch
from onnx_lowrank.runtime.provider import CPU_BATCH_ELEMENTS

log = logging.getLogger(__name__)

MAX_CALIBRATION_SAMPLES = 256
MAX_PREVIEW_SAMPLES = 32  # a quick look solves with as many, and verifies with as many others
MAX_HELD_OUT_SAMPLES = 100
MAX_SEARCH_SAMPLES = 4_000  # a search for a speedup measures on them: a loss of 1 % is known to 0.3 points
MAX_VERIFICATION_SAMPLES = 2_000  # held out to verify the result of a search
# Set aside to judge a refinement by; with fewer, solving without them costs more than the refinement brings.
_MIN_REFINEMENT_SAMPLES, _MAX_REFINEMENT_SAMPLES = 20, 64
_REFINEMENT_SHARE = 10  # one in so many of those to solve with
_MIN_SAMPLE_ELEMENTS = 6_250  # a smaller sample counts as this many, which limits the batch size


@dataclass(frozen=True, eq=False)
class Split:
    """The samples by what they are used for.

    Attributes:
        calibration: indices of the samples to solve with, in random order: the solver holds out a contiguous part
            of them, which must not be all of one class because the data are sorted by class.
        held_out: indices of the samples to verify with, ascending; disjoint from ``calibration`` unless there are no
            others.
        batch_size: samples per forward pass.
        search: indices of the samples that a search for a speedup measures on, ascending, disjoint from the others;
            empty without a search.
        refinement: indices of the samples that a refinement of blocks is judged by, disjoint from the others; empty
            without one.
    """

    calibration: NDArray[np.int64]
    held_out: NDArray[np.int64]
    batch_size: int
    search: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    refinement: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def with_refinement(self, step: int) -> Split:
        """Return the split with a tenth of the samples to solve with set aside; as it is where there are too few.

        Args:
            step: samples of a batch where that is fixed, else 1.
        """
        count = min(_MAX_REFINEMENT_SAMPLES, len(self.calibration) // _REFINEMENT_SHARE) // step * step
        if count < _MIN_REFINEMENT_SAMPLES:
            return self
        return replace(self, calibration=self.calibration[:-count], refinement=self.calibration[-count:])


def min_refined_samples(step: int) -> int:
    """Return how many samples to solve with a refinement of blocks takes, with some of them set aside.

    Args:
        step: samples of a batch where that is fixed, else 1.
    """
    return ceil(_MIN_REFINEMENT_SAMPLES / step) * step * _REFINEMENT_SHARE


def split_samples(
    samples: Samples,
    inputs: Iterable[TensorSpec],
    generator: np.random.Generator,
    count: int | None,
    batch_size: int | None,
    max_held_out: int = MAX_HELD_OUT_SAMPLES,
    max_search: int = 0,
    max_calibration: int = MAX_CALIBRATION_SAMPLES,
) -> Split:
    """Choose calibration, held-out and search samples at random.

    Args:
        samples: the data.
        inputs: the model's inputs; a fixed first axis is the batch size.
        generator: source of randomness.
        count: calibration samples; None for at most ``max_calibration``, leaving a fifth to verify with.
        batch_size: samples per forward pass; None to derive it from the inputs' size, see `default_batch`.
        max_held_out: samples to verify with, at most.
        max_search: samples for a search, at most; 0 for no search. Where data are few, twice as many as to verify
            with.
        max_calibration: samples to solve with, at most, where ``count`` does not say.

    Raises:
        CalibrationError: fewer samples than ``count``, than the model's fixed batch, or than a search takes.
    """
    specs = list(inputs)
    fixed = fixed_batch(specs)
    step = fixed or 1  # all parts are multiples of it
    if count and count < step:
        raise CalibrationError(
            f"data {samples.source}: {count} samples wanted, the model takes batches of {step}: raise `samples`"
        )
    max_calibration = count or max(step, max_calibration)
    max_others = max(step, max_held_out) + (max(step, max_search) if max_search else 0)
    chosen = _drawn(samples, generator, step, max_calibration + max_others)
    if len(chosen) < (count // step * step if count else step):
        lower = f"wanted {count}: add samples or lower `samples`"
        remedy = lower if count else f"the model takes batches of {step}: add samples"
        raise CalibrationError(f"data {samples.source}: {len(chosen)} usable samples, {remedy}")
    if not count:
        min_others, share = (2 * step, 2) if max_search else (step, 5)
        others = max(min_others, min(max_others, len(chosen) // share))
        count = max(step, min(max_calibration, len(chosen) - others))
    count = count // step * step
    calibration, rest = chosen[:count], chosen[count:]
    search = rest[:0]
    if max_search:
        search, rest = _split_search(rest, max_search, step, samples.source)
        rest = rest[: max(step, max_held_out)]
    held_out = rest[: len(rest) // step * step]
    if not len(held_out):
        log.warning("no samples left to verify with: the calibration samples are used again")
        held_out = calibration
    return Split(calibration, np.sort(held_out), fixed or batch_size or default_batch(specs), np.sort(search))


def _split_search(
    indices: NDArray[np.int64], max_search: int, step: int, source: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return samples to search with, at most two thirds, and the rest to verify with."""
    count = min(max(step, max_search), 2 * len(indices) // 3) // step * step
    if not count or len(indices) - count < step:
        raise CalibrationError(
            f"data {source}: {len(indices)} samples are left beside those to solve with, `max_drop` wants some to "
            "search with and others to verify with: add samples or lower `samples`"
        )
    return indices[:count], indices[count:]


def draw_samples(
    samples: Samples,
    inputs: Iterable[TensorSpec],
    generator: np.random.Generator,
    count: int | None,
    batch_size: int | None,
) -> tuple[NDArray[np.int64], int]:
    """Draw samples to run a model on.

    Args:
        samples: the data.
        inputs: the model's inputs; a fixed first axis is the batch size.
        generator: source of randomness.
        count: number of samples; None for all.
        batch_size: samples per forward pass; None to derive it from the inputs' size, see `default_batch`.

    Returns:
        Indices of the samples, ascending, and the samples per forward pass.

    Raises:
        CalibrationError: fewer samples than ``count``, or than the model's fixed batch.
    """
    specs = list(inputs)
    fixed = fixed_batch(specs)
    step = fixed or 1
    if count and count > len(samples):
        raise CalibrationError(
            f"data {samples.source}: {len(samples)} samples, wanted {count}: add samples or lower `samples`"
        )
    usable = _drawn(samples, generator, step, len(samples) if count is None else count)
    chosen = usable[: len(usable) // step * step]
    if not len(chosen):
        raise CalibrationError(
            f"data {samples.source}: {len(usable)} usable samples, the model takes batches of {step}: add samples"
        )
    return np.sort(chosen), fixed or batch_size or default_batch(specs)


def default_batch(inputs: Iterable[TensorSpec], elements: int = CPU_BATCH_ELEMENTS) -> int:
    """Return the samples per forward pass, at least 1.

    Args:
        inputs: the model's inputs.
        elements: input numbers that a pass should have.
    """
    sample = sum(prod(size or 1 for size in spec.shape[1:]) for spec in inputs)
    return max(1, elements // max(_MIN_SAMPLE_ELEMENTS, sample))


def _drawn(samples: Samples, generator: np.random.Generator, step: int, count: int) -> NDArray[np.int64]:
    """Draw samples at random, those of a fixed batch together as they stand in the data: they may belong together.

    Args:
        samples: the data.
        generator: source of randomness.
        step: samples of a batch, 1 where that is open.
        count: samples to draw, at most.

    Returns:
        Indices of usable samples, batch by batch; all usable ones where there is no whole batch.
    """
    if min(count, len(samples)) < step:
        return _decodable(samples, generator.permutation(len(samples))[:count])
    drawn = generator.permutation(len(samples) // step)[: count // step]
    indices = (drawn[:, None] * step + np.arange(step)).ravel()
    usable = _decodable(samples, indices)
    if step == 1 or len(usable) == len(indices):
        return usable
    return indices[np.isin(indices, usable).reshape(-1, step).all(axis=1).repeat(step)]


def _decodable(samples: Samples, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out samples whose image cannot be decoded, with a warning."""
    usable = samples.usable(indices)
    if len(usable) < len(indices):
        skipped = samples.skipped
        log.warning("%d images cannot be decoded and are left out (%s)", len(skipped), skipped[0])
    return usable
