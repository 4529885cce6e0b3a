"""The search for a learning rate by short trials."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import chain, count, islice
from math import inf, isfinite, sqrt

from torch import Tensor

from onnx_lowrank.torch.training.dataset import DistillationData
from onnx_lowrank.torch.training.trainer import Trainer

_RATES_PER_DECADE = 2
_START, _LOWEST, _HIGHEST = -6, -12, 0  # exponents, in steps of half a decade: rates of 1e-3, 1e-6 and 1
TRIAL_STEPS = 40
_MIN_TRIAL_STEPS = 10  # that tell rates apart
_TRIAL_SHARE = 0.25  # of a short training that a trial may take: there are several
_MAX_TRIAL_SAMPLES = 512  # held-out samples that a trial is evaluated on
# Peak rates, relative to the weights. Longer steps forget more than they learn, however many there are. Agreement with
# the original is forgotten first and takes the longest to come back; where labels alone count, higher rates do no harm.
_MAX_RATE, _MAX_RATE_BY_LABELS = 0.005, 0.01
_LOSS_TOLERANCE = 0.02  # relative difference of two trials that may be chance


def find_learning_rate(trainer: Trainer, dataset: DistillationData, total: int) -> float:
    """Find a learning rate by short trials, each with its own full schedule, and scale it to the whole training.

    The best rate of a long training is higher than that of a trial, as there is time to repair what large steps
    disturb. It grows with the square root of the number of steps, like the distance of a random walk.

    Args:
        trainer: is left in the state that it came in.
        dataset: samples to train and evaluate on.
        total: steps of the whole training.
    """
    start = trainer.state()
    steps = min(TRIAL_STEPS, total, max(_MIN_TRIAL_STEPS, round(_TRIAL_SHARE * total)))
    rate = best_rate(partial(_trial_loss, trainer, dataset, start, steps), _LOSS_TOLERANCE)
    trainer.set_state(start)
    return max(rate, min(rate * sqrt(total / steps), _MAX_RATE_BY_LABELS if trainer.evaluates_labels else _MAX_RATE))


def best_rate(loss: Callable[[float], float], tolerance: float = 0.0) -> float:
    """Return the rate with the smallest loss, or the highest one whose loss is hardly larger.

    The search starts at 0.001 and goes in steps of the square root of 10: up while the loss falls; down, if the first
    step up does not lower it.

    Args:
        loss: of a rate; it is called once per rate. NaN counts as infinite.
        tolerance: relative amount by which a loss may exceed the smallest.
    """
    loss_at = cache(partial(_finite_loss, loss))
    best = _descend(loss_at, _START, 1)
    if best == _START:
        best = _descend(loss_at, _START, -1)
    limit = loss_at(best) * (1 + tolerance)
    while best < _HIGHEST and loss_at(best + 1) < limit:
        best += 1
    return _rate(best)


def _trial_loss(
    trainer: Trainer, dataset: DistillationData, start: dict[str, Tensor], steps: int, rate: float
) -> float:
    """Train from the start for a few steps, and return the loss on held-out samples."""
    trainer.set_state(start)
    batches = chain.from_iterable(dataset.epoch(-number) for number in count(1))
    trainer.train(islice(batches, steps), rate, 0, steps)
    return trainer.evaluate(_MAX_TRIAL_SAMPLES).loss


def _finite_loss(loss: Callable[[float], float], exponent: int) -> float:
    value = loss(_rate(exponent))
    return value if isfinite(value) else inf


def _descend(loss_at: Callable[[int], float], exponent: int, step: int) -> int:
    """Step on while the loss falls; downwards also while the loss is infinite."""
    while _LOWEST <= exponent + step <= _HIGHEST and (
        loss_at(exponent + step) < loss_at(exponent) or (step < 0 and loss_at(exponent) == inf)
    ):
        exponent += step
    return exponent


def _rate(exponent: int) -> float:
    return float(10 ** (exponent / _RATES_PER_DECADE))
