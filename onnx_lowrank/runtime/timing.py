"""Measured latency: models timed in turns, one of them loaded at a time.

The worker threads of an idle session spin for a while, waiting for work. With two sessions in one process those of the
idle one take the cores from the other, and times on several threads are wrong by up to a half. So a session is closed
before the next one opens. The speed of a machine also changes within seconds: models are compared within a round, and
rounds are repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.runtime.backends.protocol import Prepared, Runtime
from onnx_lowrank.runtime.backends.staging import staging_folder, subfolder

_MAX_RUNS_PER_ROUND = 2_000  # reached by models that take microseconds
_MIN_COVERAGE = 0.75  # of an interval: that of three rounds from the smallest to the largest


@dataclass(frozen=True)
class Pace:
    """How often and how long models are run.

    A round of a model ends when both ``repeats`` and ``seconds`` are reached, or ``enough`` is.

    Attributes:
        rounds: how often the models take turns, at least 1.
        repeats: runs of a model per round, at least 1.
        seconds: time that a model runs per round, in seconds; no more than 2,000 runs are made to reach it.
        warm_up: runs before those that count, in every round.
        enough: seconds after which a round ends after one run or more, and its warm-up too.

    Raises:
        ValueError: less than one round or repeat.
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
        rounds: milliseconds of the runs of each round.
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def runs(self) -> int:
        """Number of runs, of all rounds."""
        return sum(map(len, self.rounds))

    @property
    def best_ms(self) -> float:
        """Milliseconds of the fastest run: what the machine can do when it does nothing else."""
        return min(map(min, self.rounds))

    @property
    def median_ms(self) -> float:
        """Median over all runs, in milliseconds."""
        return self.percentile_ms(50)

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile over all runs, in milliseconds.

        Args:
            percent: 0 to 100.
        """
        return float(np.percentile(np.concatenate(self.rounds), percent))

    def speedup(self, other: Timing) -> float:
        """Return how many times as fast ``other`` is: the ratio of the two medians.

        Args:
            other: the runs of another model, timed in turns with this one.
        """
        return self.median_ms / other.median_ms

    def speedup_interval(self, other: Timing) -> tuple[float, float]:
        """Return between which bounds the speedup lies: they hold the ratios of rounds, of all and of the fastest runs.

        The ratios of rounds are bounded by two of them, which lie around the true median with a probability of at least
        75 %, whatever the distribution: the smallest and the largest of 3 to 5 rounds, the second of either end of 6.
        Other work on the machine may also slow down most runs of every round; then the ratio of the fastest runs,
        which it spoils least, is another one, and the bounds are widened to hold it too, and the speedup itself.

        Args:
            other: the runs of another model, timed in turns with this one.

        Raises:
            ValueError: the numbers of rounds differ.

        References:
            David, Nagaraja 2003, Order Statistics, 3rd edition, section 7.1, for the interval of a median; Chen, Revels
            2016, arXiv:1608.04295, for the fastest run.

        >>> Timing(((4.0,), (6.0,), (4.2,))).speedup_interval(Timing(((2.0,), (2.0,), (2.0,))))
        (2.0, 3.0)
        """
        ratios = sorted(self._ratios(other))
        left_out = _left_out_per_end(len(ratios))
        others = self.best_ms / other.best_ms, self.speedup(other)
        return min(ratios[left_out], *others), max(ratios[-1 - left_out], *others)

    def joined(self, later: Timing) -> Timing:
        """Return the rounds of both."""
        return Timing(self.rounds + later.rounds)

    def _ratios(self, other: Timing) -> list[float]:
        """Return the ratio of the medians of every round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return [median(own) / median(others) for own, others in pairs]


def _left_out_per_end(count: int) -> int:
    """Return how many of ``count`` sorted numbers can be left out at either end: the rest covers the median well."""
    left_out, missed = 0, 2 / 2**count  # the probability that all numbers are on one side of the median
    while left_out + 1 < count / 2:
        missed += 2 * comb(count, left_out + 1) / 2**count
        if missed > 1 - _MIN_COVERAGE:
            break
        left_out += 1
    return left_out


def time_in_turns(
    models: Sequence[onnx.ModelProto | Path],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    runtime: Runtime,
    pace: Pace,
    between: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time models in turns, each converted for the runtime once and loaded anew in every round.

    Args:
        models: the models.
        feeds: one batch of inputs for each.
        runtime: what runs them.
        pace: how often and how long each is run.
        between: called before every run, not timed.

    Returns:
        The runs of each model, in order.

    Raises:
        ModelError: the runtime cannot convert, load or run one of them.
        ValueError: the numbers of models and feeds differ.
    """
    with staging_folder() as folder:
        prepared = [
            runtime.prepare(model, batch, subfolder(folder, str(position)))
            for position, (model, batch) in enumerate(zip(models, feeds, strict=True))
        ]
        return time_prepared(prepared, pace, between)


def time_prepared(networks: Sequence[Prepared], pace: Pace, between: Callable[[], None] = lambda: None) -> list[Timing]:
    """Time networks in turns that are converted already, one of them loaded at a time.

    Args:
        networks: all in one runtime.
        pace: how often and how long each is run.
        between: called before every run, not timed.

    Raises:
        ModelError: the runtime cannot load or run one of them.
    """
    runs: list[list[tuple[float, ...]]] = [[] for _ in networks]
    for _ in range(pace.rounds):
        for own_runs, network in zip(runs, networks, strict=True):
            running = network.open()
            try:
                own_runs.append(time_round(running.run, pace, between))
            finally:
                running.close()
    return [Timing(tuple(own_runs)) for own_runs in runs]


def time_round(run: Callable[[], None], pace: Pace, between: Callable[[], None] = lambda: None) -> tuple[float, ...]:
    """Run something for one round.

    Args:
        run: what is timed.
        pace: how often and how long.
        between: called before every run that counts, not timed.

    Returns:
        The milliseconds of each run.
    """
    begin = time.perf_counter()
    for _ in range(pace.warm_up):
        if time.perf_counter() - begin < pace.enough:
            run()
    times: list[float] = []
    spent = 0.0
    while len(times) < pace.repeats or (spent < pace.seconds and len(times) < _MAX_RUNS_PER_ROUND):
        if times and spent >= pace.enough:
            break
        between()
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        spent += seconds
        times.append(1e3 * seconds)
    return tuple(times)
