"""The learning rate, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import islice

from onnx_lowrank.torch.lessons import Lessons
from onnx_lowrank.torch.objective import Marks
from onnx_lowrank.torch.trainer import Trainer

_FIRST = 1e-2
_STEP = 10**0.5
_HIGHEST, _LOWEST = 1.0, 1e-6
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
    steps = min(TRIAL_STEPS, lessons.steps)

    def trial(rate: float) -> Marks:
        trainer.set_weights(start)
        trainer.train(islice(lessons.epoch(-1), steps), rate, 0, steps)
        return trainer.marks(_CHECKED)

    rate = climb(lambda rate: trial(rate).loss, _WORSE * (1 - steps / total))
    trainer.set_weights(start)
    return rate


def climb(loss: Callable[[float], float], worse: float = 0.0) -> float:
    """The highest rate whose loss is hardly worse than the smallest there is.

    The smallest is found walking from `_FIRST` in steps of the square root of 10: up as long as the loss falls; down,
    if the first step up does not.

    Args:
        loss: of a rate; it is asked once for each.
        worse: by which share a loss may be above the smallest.
    """
    known = cache(loss)
    best = _walk(known, _FIRST, _STEP)
    if best == _FIRST:
        best = _walk(known, _FIRST, 1 / _STEP)
    most = known(best) * (1 + worse)
    while _allowed(best * _STEP) and known(best * _STEP) < most:
        best *= _STEP
    return best


def _walk(loss: Callable[[float], float], rate: float, step: float) -> float:
    while _allowed(rate * step) and loss(rate * step) < loss(rate):
        rate *= step
    return rate


def _allowed(rate: float) -> bool:
    return _LOWEST <= rate <= _HIGHEST
