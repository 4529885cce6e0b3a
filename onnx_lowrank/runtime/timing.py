"""Measured latency: models in turns, one session alive at a time.

The worker threads of an idle session spin for a while, waiting for work; where two sessions live in one process, those
of the idle one take the cores from the other, and figures on several threads come out wrong by half. So a session is
closed before the next one opens. Machines also get faster and slower over seconds: models are compared within a round,
and rounds are repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

_MOST_RUNS = 2_000  # per round, of models that take microseconds


@dataclass(frozen=True)
class Pace:
    """How much is measured.

    Attributes:
        rounds: how often the models take turns.
        repeats: runs of a model per round, at least.
        seconds: how long a model runs per round, at least; 2,000 runs are enough.
        warm_up: runs before those that count, in every round.
        enough: seconds after which a round ends however few runs it has had, but for one.
    """

    rounds: int = 5
    repeats: int = 10
    seconds: float = 0.25
    warm_up: int = 2
    enough: float = inf

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.repeats < 1:
            raise ValueError(f"rounds and repeats must be at least 1, got {self.rounds} and {self.repeats}")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of every run of one model.

    Attributes:
        rounds: the runs of each round.
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def runs(self) -> int:
        """How many there were."""
        return sum(map(len, self.rounds))

    @property
    def best_ms(self) -> float:
        """The fastest run: what the machine can do where nothing else goes on."""
        return min(map(min, self.rounds))

    @property
    def median_ms(self) -> float:
        """Median over all runs."""
        return self.percentile_ms(50)

    def percentile_ms(self, percent: float) -> float:
        """A percentile over all runs."""
        return float(np.percentile(np.concatenate(self.rounds), percent))

    def speedup(self, other: Timing) -> float:
        """How many times as fast ``other`` is: the median over rounds of the ratio of this model's median to its."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return median(median(mine) / median(theirs) for mine, theirs in pairs)


def time_in_turns(
    models: Sequence[onnx.ModelProto | Path],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    provider: Provider,
    pace: Pace,
    between: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time models in turns.

    Args:
        models: what to time.
        feeds: one batch of inputs for each.
        provider: where they run.
        pace: how much is measured.
        between: what goes on before every run, and is not timed.

    Returns:
        The runs of each model, in order.

    Raises:
        ModelError: onnxruntime cannot load or run one of them.
    """
    runs: list[list[tuple[float, ...]]] = [[] for _ in models]
    for _ in range(pace.rounds):
        for mine, model, batch in zip(runs, models, feeds, strict=True):
            mine.append(_one_round(Session(model, provider, deployed=True).bound(batch), pace, between))
    return [Timing(tuple(mine)) for mine in runs]


def _one_round(run: Callable[[], None], pace: Pace, between: Callable[[], None]) -> tuple[float, ...]:
    begin = time.perf_counter()
    for _ in range(pace.warm_up):
        if time.perf_counter() - begin < pace.enough:
            run()
    times: list[float] = []
    spent = 0.0
    while len(times) < pace.repeats or (spent < pace.seconds and len(times) < _MOST_RUNS):
        if times and spent >= pace.enough:
            break
        between()
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        spent += seconds
        times.append(1e3 * seconds)
    return tuple(times)
