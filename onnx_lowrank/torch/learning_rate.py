"""The learning rate, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import chain, count, islice
from math import inf, isfinite

from onnx_lowrank.torch.lessons import Lessons
from onnx_lowrank.torch.objective import Marks
from onnx_lowrank.torch.trainer import Trainer

_PER_DECADE = 2  # rates
_FIRST, _LOWEST, _HIGHEST = -4, -12, 0  # by number: 0.01, a millionth, 1
TRIAL_STEPS = 40
_CHECKED = 512  # held-out samples that a trial is judged by
_WORSE = 0.1  # than the best trial may end one whose rate is taken for a long training


def find_learning_rate(trainer: Trainer, lessons: Lessons, total: int) -> float:
    """Train a little with different rates, each from the start and to a standstill.

    A trial sees the noise of high rates, but not how far they lead: of two rates that it finds nearly alike the higher
    one is better in the long run. So the highest is taken whose trial is not much worse than the best one; how much,
    goes by how short trials are beside the training.

    Args:
        trainer: left with the weights that it came with.
        lessons: what to train on.
        total: steps of the whole training.
    """
    start = trainer.weights()
    steps = min(TRIAL_STEPS, total)

    def trial(rate: float) -> Marks:
        trainer.set_weights(start)
        batches = chain.from_iterable(lessons.epoch(-number) for number in count(1))
        trainer.train(islice(batches, steps), rate, 0, steps)
        return trainer.marks(_CHECKED)

    rate = climb(lambda rate: trial(rate).loss, _WORSE * (1 - steps / total))
    trainer.set_weights(start)
    return rate


def climb(loss: Callable[[float], float], worse: float = 0.0) -> float:
    """The highest rate whose loss is hardly worse than the smallest there is.

    The smallest is found walking from 0.01 in steps of the square root of 10: up as long as the loss falls; down, if
    the first step up does not.

    Args:
        loss: of a rate; it is asked once for each. What is no number is the worst.
        worse: by which share a loss may be above the smallest.
    """

    @cache
    def known(number: int) -> float:
        found = loss(_rate(number))
        return found if isfinite(found) else inf

    best = _walk(known, _FIRST, 1)
    if best == _FIRST:
        best = _walk(known, _FIRST, -1)
    most = known(best) * (1 + worse)
    while best < _HIGHEST and known(best + 1) < most:
        best += 1
    return _rate(best)


def _walk(loss: Callable[[int], float], number: int, step: int) -> int:
    """On as long as it gets better, and down from where there is no loss at all."""
    while _LOWEST <= number + step <= _HIGHEST and (
        loss(number + step) < loss(number) or (step < 0 and loss(number) == inf)
    ):
        number += step
    return number


def _rate(number: int) -> float:
    return float(10 ** (number / _PER_DECADE))
