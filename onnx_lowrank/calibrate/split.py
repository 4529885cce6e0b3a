"""How many samples and positions a conversion takes, and which images it keeps back to verify with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.samples import Samples
from onnx_lowrank.calibrate.positions import Ints, draw_positions
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.provider import CPU_BATCH_ELEMENTS

log = logging.getLogger(__name__)

MOST_CALIBRATION = 256
MOST_HELD_OUT = 100
MOST_SEARCHED = 4_000  # samples that a search for a speedup judges by: a loss of 1 % is known to 0.3 points
MOST_VERIFIED = 2_000  # samples that what was found is verified with
ROWS_PER_FILTER = 30  # with fewer than about 10 the solver fits noise; beyond 30 little is gained
LEAST_ROWS = 15_000
MOST_PATCH_BYTES = 2**30  # of a layer's sampled input patches, which are kept while it is solved
_LEAST_ELEMENTS = 6_250  # that a sample counts as: not too many small ones in a batch


@dataclass(frozen=True, eq=False)
class Split:
    """Which samples are used for what.

    Attributes:
        calibration: indices of the samples to solve with, in random order: the solver holds back a stretch of them,
            which must not be all of one class because the data are sorted by class.
        held_out: indices of the samples to verify with; none of ``calibration`` unless there are no others.
        batch_size: samples per forward pass.
        search: indices of the samples that a search for a speedup judges by, none of the others; empty without one.
    """

    calibration: NDArray[np.int64]
    held_out: NDArray[np.int64]
    batch_size: int
    search: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def split_samples(
    samples: Samples,
    inputs: Iterable[TensorSpec],
    generator: np.random.Generator,
    wanted: int | None,
    batch_size: int | None,
    most_held_out: int = MOST_HELD_OUT,
    most_searched: int = 0,
) -> Split:
    """Choose calibration and held-out samples at random.

    Args:
        samples: the data.
        inputs: the model's inputs; a fixed first axis is the batch size.
        generator: source of randomness.
        wanted: calibration samples; None for at most `MOST_CALIBRATION`, leaving a fifth to verify with.
        batch_size: samples per forward pass; None to go by the inputs' size, see `default_batch`.
        most_held_out: samples to verify with, at most.
        most_searched: samples for a search to judge by, at most; twice as many as to verify with where data are few.

    Raises:
        CalibrationError: fewer samples than wanted, than the model's fixed batch, or than a search takes.
    """
    specs = list(inputs)
    fixed = _fixed_batch(specs)
    step = fixed or 1
    if wanted and wanted < step:
        raise CalibrationError(
            f"data {samples.source}: {wanted} samples wanted, the model takes batches of {step}: raise `samples`"
        )
    order = generator.permutation(len(samples))
    most = wanted or max(step, MOST_CALIBRATION)
    others = max(step, most_held_out) + (max(step, most_searched) if most_searched else 0)
    usable = _usable(samples, order[: most + others])
    if len(usable) < (wanted or step):
        lower = f"wanted {wanted}: add samples or lower `samples`"
        wish = lower if wanted else f"the model takes batches of {step}: add samples"
        raise CalibrationError(f"data {samples.source}: {len(usable)} usable samples, {wish}")
    kept_back = max(2 * step, min(others, len(usable) // 2)) if most_searched else min(others, len(usable) // 5)
    kept_back = max(step, kept_back)
    count = wanted or max(step, min(most, len(usable) - kept_back))
    count = count // step * step
    calibration, rest = usable[:count], usable[count:]
    search = rest[:0]
    if most_searched:
        search, rest = _parted(rest, most_searched, step, samples.source)
        rest = rest[: max(step, most_held_out)]
    rest = rest[: len(rest) // step * step]
    if not len(rest):
        log.warning("no samples left to verify with: the calibration samples are used again")
        rest = calibration
    return Split(calibration, np.sort(rest), fixed or batch_size or default_batch(specs), np.sort(search))


def _parted(
    rest: NDArray[np.int64], most_searched: int, step: int, source: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples to search with and those left to verify with: two thirds and one third, unless data abound."""
    count = min(max(step, most_searched), 2 * len(rest) // 3) // step * step
    if not count or len(rest) - count < step:
        raise CalibrationError(
            f"data {source}: {len(rest)} samples are left beside those to solve with, `max_drop` wants some to search "
            "with and others to verify with: add samples or lower `samples`"
        )
    return rest[:count], rest[count:]


def draw_samples(
    samples: Samples,
    inputs: Iterable[TensorSpec],
    generator: np.random.Generator,
    wanted: int | None,
    batch_size: int | None,
) -> tuple[NDArray[np.int64], int]:
    """Choose samples for a look at a model: as many as wanted, or all.

    Args:
        samples: the data.
        inputs: the model's inputs; a fixed first axis is the batch size.
        generator: source of randomness.
        wanted: number of samples; None for all.
        batch_size: samples per forward pass; None to go by the inputs' size, see `default_batch`.

    Returns:
        Indices of the samples, ascending, and the samples per forward pass.

    Raises:
        CalibrationError: fewer samples than wanted, or than the model's fixed batch.
    """
    specs = list(inputs)
    fixed = _fixed_batch(specs)
    step = fixed or 1
    if wanted and wanted > len(samples):
        raise CalibrationError(
            f"data {samples.source}: {len(samples)} samples, wanted {wanted}: add samples or lower `samples`"
        )
    usable = _usable(samples, generator.permutation(len(samples))[:wanted])
    chosen = usable[: len(usable) // step * step]
    if not len(chosen):
        raise CalibrationError(
            f"data {samples.source}: {len(usable)} usable samples, the model takes batches of {step}: add samples"
        )
    return np.sort(chosen), fixed or batch_size or default_batch(specs)


def default_batch(inputs: Iterable[TensorSpec], elements: int = CPU_BATCH_ELEMENTS) -> int:
    """Samples per forward pass.

    Args:
        inputs: the model's inputs.
        elements: input numbers that a pass should have.
    """
    sample = sum(prod(size or 1 for size in spec.shape[1:]) for spec in inputs)
    return max(1, elements // max(_LEAST_ELEMENTS, sample))


def layer_positions(layers: Iterable[Layer], images: int, wanted: int | None, seed: int) -> dict[str, Ints]:
    """Sampled positions of every image for every layer.

    Args:
        layers: the layers.
        images: number of calibration images.
        wanted: positions per image; None for as many as give `ROWS_PER_FILTER` rows per filter and leave their
            patches within `MOST_PATCH_BYTES`.
        seed: of the drawing; each layer has its own stream.

    Returns:
        Per layer name, flat positions of shape (images, P).
    """
    drawn = {}
    for number, layer in enumerate(layers):
        affordable = MOST_PATCH_BYTES // (4 * layer.channels * prod(layer.kernel))
        rows = min(max(LEAST_ROWS, ROWS_PER_FILTER * layer.filters), affordable)
        generator = np.random.default_rng([seed, number])
        drawn[layer.name] = draw_positions(generator, images, prod(layer.positions), wanted or ceil(rows / images))
    return drawn


def _usable(samples: Samples, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those that can be decoded; the others are left out aloud."""
    usable = samples.usable(indices)
    if len(usable) < len(indices):
        skipped = samples.skipped
        log.warning("%d images cannot be decoded and are left out (%s)", len(skipped), skipped[0])
    return usable


def _fixed_batch(specs: Iterable[TensorSpec]) -> int | None:
    return next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)
