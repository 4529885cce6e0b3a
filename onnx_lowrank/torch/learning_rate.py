"""The learning rate, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from onnx_lowrank.torch.lessons import Lessons
from onnx_lowrank.torch.objective import Marks
from onnx_lowrank.torch.trainer import Trainer

_FIRST = 1e-2
_STEP = 10**0.5
_HIGHEST, _LOWEST = 1.0, 1e-6
TRIAL_STEPS = 40
_CHECKED = 512  # held-out samples that a trial is judged by


def find_learning_rate(trainer: Trainer, lessons: Lessons) -> float:
    """Train a little with different rates, each from the start and to a standstill, and take the best.

    From 0.01 up in steps of the square root of 10 as long as it gets better; down, if the first step up does not.

    Args:
        trainer: left with the weights that it came with.
        lessons: what to train on.
    """
    start = trainer.weights()
    steps = min(TRIAL_STEPS, lessons.steps)

    def trial(rate: float) -> Marks:
        trainer.set_weights(start)
        trainer.train(islice(lessons.epoch(-1), steps), rate, 0, steps)
        return trainer.marks(_CHECKED)

    rate = climb(lambda rate: trial(rate).loss)
    trainer.set_weights(start)
    return rate


def climb(loss: Callable[[float], float]) -> float:
    """The rate with the smallest loss, walking from `_FIRST` up or down while the loss falls."""
    best, least = _FIRST, loss(_FIRST)
    for factor in (_STEP, 1 / _STEP):
        rate = best
        while _LOWEST <= rate * factor <= _HIGHEST:
            rate *= factor
            found = loss(rate)
            if not found < least:
                break
            best, least = rate, found
        if best != _FIRST:
            break
    return best
