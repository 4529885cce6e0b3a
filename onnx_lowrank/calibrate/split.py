"""How many samples and positions a conversion takes, and which images it keeps back to verify with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.samples import Samples
from onnx_lowrank.calibrate.sampling import Ints, draw_positions
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.layer import Layer
from onnx_lowrank.tensor_spec import TensorSpec

log = logging.getLogger(__name__)

MOST_CALIBRATION = 256
MOST_HELD_OUT = 100
ROWS_PER_FILTER = 60  # with fewer than about 10 the solver fits noise; beyond 60 little is gained
LEAST_ROWS = 20_000
MOST_PATCH_BYTES = 2**30  # of a layer's sampled input patches, which are all in memory while it is solved
_BATCH_ELEMENTS = 1_500_000  # input numbers in a forward batch
_MOST_BATCH = 64


@dataclass(frozen=True, eq=False)
class Split:
    """Which samples are used for what.

    Attributes:
        calibration: indices of the samples to solve with, in random order: the solver holds back a stretch of them,
            which must not be all of one class because the data are sorted by class.
        held_out: indices of the samples to verify with; none of ``calibration`` unless there are no others.
        batch_size: samples per forward pass.
    """

    calibration: NDArray[np.int64]
    held_out: NDArray[np.int64]
    batch_size: int


def split_samples(
    samples: Samples,
    inputs: Iterable[TensorSpec],
    generator: np.random.Generator,
    wanted: int | None,
    batch_size: int | None,
) -> Split:
    """Choose calibration and held-out samples at random.

    Args:
        samples: the data.
        inputs: the model's inputs; a fixed first axis is the batch size.
        generator: source of randomness.
        wanted: calibration samples; None for at most `MOST_CALIBRATION`, leaving a fifth to verify with.
        batch_size: samples per forward pass; None to go by the inputs' size.

    Raises:
        CalibrationError: fewer samples than wanted, or than the model's fixed batch.
    """
    specs = list(inputs)
    fixed = _fixed_batch(specs)
    step = fixed or 1
    if wanted and wanted < step:
        raise CalibrationError(
            f"data {samples.source}: {wanted} samples wanted, the model takes batches of {step}: raise --samples"
        )
    order = generator.permutation(len(samples))
    most = wanted or max(step, MOST_CALIBRATION)
    usable = _usable(samples, order[: most + max(step, MOST_HELD_OUT)])
    if len(usable) < (wanted or step):
        lower = f"wanted {wanted}: add samples or lower --samples"
        wish = lower if wanted else f"the model takes batches of {step}: add samples"
        raise CalibrationError(f"data {samples.source}: {len(usable)} usable samples, {wish}")
    kept_back = max(step, min(MOST_HELD_OUT, len(usable) // 5))
    count = wanted or max(step, min(most, len(usable) - kept_back))
    count = count // step * step
    calibration, rest = usable[:count], usable[count:]
    rest = rest[: len(rest) // step * step]
    if not len(rest):
        log.warning("no samples left to verify with: the calibration samples are used again")
        rest = calibration
    return Split(calibration, np.sort(rest), fixed or batch_size or _batch_size(specs))


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
        batch_size: samples per forward pass; None to go by the inputs' size.

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
            f"data {samples.source}: {len(samples)} samples, wanted {wanted}: add samples or lower --samples"
        )
    usable = _usable(samples, generator.permutation(len(samples))[:wanted])
    chosen = usable[: len(usable) // step * step]
    if not len(chosen):
        raise CalibrationError(
            f"data {samples.source}: {len(usable)} usable samples, the model takes batches of {step}: add samples"
        )
    return np.sort(chosen), fixed or batch_size or _batch_size(specs)


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


def _batch_size(specs: Iterable[TensorSpec]) -> int:
    elements = sum(prod(size or 1 for size in spec.shape[1:]) for spec in specs)
    return int(np.clip(_BATCH_ELEMENTS // max(1, elements), 1, _MOST_BATCH))
