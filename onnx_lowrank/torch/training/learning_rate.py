"""The learning rate, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import chain, count, islice
from math import inf, isfinite, sqrt

from onnx_lowrank.torch.training.dataset import Lessons
from onnx_lowrank.torch.training.objective import Marks
from onnx_lowrank.torch.training.trainer import Trainer

_PER_DECADE = 2  # rates
_FIRST, _LOWEST, _HIGHEST = -6, -12, 0  # by number: 0.001, a millionth, 1
TRIAL_STEPS = 40
_CHECKED = 512  # held-out samples that a trial is judged by
# Relative to the weights: longer steps forget more than they learn, however many there are. Agreement with the original
# is forgotten first and takes the longest to come back; where labels alone judge, there is no need to wait for it.
_MOST, _MOST_BY_LABELS = 0.005, 0.01
_ALIKE = 0.02  # share of the loss by which two trials may differ for no reason


def find_learning_rate(trainer: Trainer, lessons: Lessons, total: int) -> float:
    """Train a little with different rates, each from the start and to a standstill; then reckon with the length.

    The best rate of a long training is higher than that of a trial: what its steps disturb, it has the time to put in
    order again. It grows with the square root of the number of steps, as the way does that steps in random directions
    lead.

    Args:
        trainer: left in the state that it came in.
        lessons: what to train on.
        total: steps of the whole training.
    """
    start = trainer.state()
    steps = min(TRIAL_STEPS, total)

    def trial(rate: float) -> Marks:
        trainer.set_state(start)
        batches = chain.from_iterable(lessons.epoch(-number) for number in count(1))
        trainer.train(islice(batches, steps), rate, 0, steps)
        return trainer.marks(_CHECKED)

    rate = walk(lambda rate: trial(rate).loss, _ALIKE)
    trainer.set_state(start)
    return max(rate, min(rate * sqrt(total / steps), _MOST_BY_LABELS if trainer.by_labels else _MOST))


def walk(loss: Callable[[float], float], alike: float = 0.0) -> float:
    """The rate of the smallest loss, or the highest one whose loss is hardly larger.

    The smallest is looked for from 0.001 in steps of the square root of 10: up as long as the loss falls; down, if the
    first step up does not.

    Args:
        loss: of a rate; it is asked once for each. What is no number is the worst.
        alike: by which share a loss may be above the smallest.
    """

    @cache
    def known(number: int) -> float:
        found = loss(_rate(number))
        return found if isfinite(found) else inf

    best = _on(known, _FIRST, 1)
    if best == _FIRST:
        best = _on(known, _FIRST, -1)
    most = known(best) * (1 + alike)
    while best < _HIGHEST and known(best + 1) < most:
        best += 1
    return _rate(best)


def _on(loss: Callable[[int], float], number: int, step: int) -> int:
    """On as long as it gets better, and down from where there is no loss at all."""
    while _LOWEST <= number + step <= _HIGHEST and (
        loss(number + step) < loss(number) or (step < 0 and loss(number) == inf)
    ):
        number += step
    return number


def _rate(number: int) -> float:
    return float(10 ** (number / _PER_DECADE))
