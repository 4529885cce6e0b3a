"""Timing in turns, with sessions and clocks that are made up where it matters."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends import onnxruntime as onnxruntime_backend
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.runtime.timing import Pace, Timing, time_in_turns
from tests.helpers import CPU, Array, Feeds, build, normal

RUNTIME = OnnxRuntime(CPU)
ADD = "g (float[N,3] x) => (float[N,3] y) { y = Add(x, x) }"


class Watched:
    """Sessions that do nothing, and a clock that goes on while they run.

    Attributes:
        log: models opened, run and closed, in order.
        now: seconds on the clock.
        costs: seconds that each run of a model takes, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, costs: dict[str, list[float]]) -> None:
        self.log: list[str] = []
        self.now = 0.0
        self.costs = {model: iter(itertools.cycle(each)) for model, each in costs.items()}
        watched = self

        class Session:
            def __init__(self, model: Any, provider: Any, *, deployed: bool) -> None:
                assert deployed
                assert provider == CPU
                self.model = model
                watched.log.append(f"open {model}")
                weakref.finalize(self, watched.log.append, f"close {model}")

            def bound(self, feeds: Feeds) -> Callable[[], None]:
                assert list(feeds) == [f"input of {self.model}"]

                def run() -> None:
                    watched.log.append(f"run {self.model}")
                    watched.now += next(watched.costs[self.model])

                return run

        monkeypatch.setattr(onnxruntime_backend, "Session", Session)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def time(self, pace: Pace) -> list[Timing]:
        models: list[Any] = list(self.costs)
        return time_in_turns(models, [{f"input of {model}": normal(0, 1)} for model in models], RUNTIME, pace)


def test_one_session_is_alive_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, {"a": [1.0], "b": [2.0]})
    found = watched.time(Pace(rounds=2, repeats=3, seconds=0, warm_up=1))
    turn = [[f"open {model}", *[f"run {model}"] * 4, f"close {model}"] for model in "ab"]
    assert watched.log == [*turn[0], *turn[1]] * 2
    assert [timing.rounds for timing in found] == [((1000.0,) * 3,) * 2, ((2000.0,) * 3,) * 2]


def test_what_goes_on_between_runs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, {"a": [1.0]})

    def between() -> None:
        watched.log.append("between")
        watched.now += 100

    models: list[Any] = ["a"]
    feeds = [{"input of a": normal(0, 1)}]
    (found,) = time_in_turns(models, feeds, RUNTIME, Pace(rounds=1, repeats=2, seconds=0, warm_up=1), between)
    assert watched.log == ["open a", *["run a"], *["between", "run a"] * 2, "close a"]
    assert found.rounds == ((1000.0, 1000.0),)


def test_a_session_is_closed_where_a_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, {"a": [1.0]})
    watched.costs["a"] = iter([])
    with pytest.raises(StopIteration):
        watched.time(Pace(rounds=1))
    assert watched.log[-1] == "close a"


def test_the_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, {"a": [9.0, 9.0, 1.0, 2.0, 3.0]})
    (found,) = watched.time(Pace(rounds=2, repeats=3, seconds=0, warm_up=2))
    assert found.rounds == ((1000.0, 2000.0, 3000.0),) * 2


@pytest.mark.parametrize(
    ("repeats", "seconds", "runs"),
    [
        (5, 0.0, 5),
        (5, 1.0, 10),  # 0.1 s each
        (12, 1.0, 12),
        (1, 1e9, 2000),  # nobody waits for ever
        (2100, 0.0, 2100),  # but for those who ask
    ],
)
def test_it_ends_with_the_later_of_repeats_and_seconds(
    monkeypatch: pytest.MonkeyPatch, repeats: int, seconds: float, runs: int
) -> None:
    watched = Watched(monkeypatch, {"a": [0.1 + 1e-9]})
    (found,) = watched.time(Pace(rounds=3, repeats=repeats, seconds=seconds, warm_up=0))
    assert [len(each) for each in found.rounds] == [runs] * 3
    assert found.runs == 3 * runs


def test_real_runs_take_their_time() -> None:
    models = [build(ADD), build(ADD)]
    feeds = [{"x": normal(0, 2, 3)}, {"x": normal(0, 5, 3)}]
    found = time_in_turns(models, feeds, RUNTIME, Pace(rounds=2, repeats=3, seconds=0))
    assert [list(map(len, timing.rounds)) for timing in found] == [[3, 3], [3, 3]]
    assert all(timing.best_ms > 0 for timing in found)


def test_a_hundred_times_the_work_takes_longer() -> None:
    small, large = (build(f"g (float[{n},{n}] x) => (float[{n},{n}] y) {{ y = MatMul(x, x) }}") for n in (64, 512))
    feeds = [{"x": normal(0, 64, 64)}, {"x": normal(0, 512, 512)}]
    found = time_in_turns([small, large], feeds, RUNTIME, Pace(rounds=3, repeats=3, seconds=0))
    assert found[1].speedup(found[0]) > 3  # 512 times


@pytest.mark.parametrize(("seconds", "runs"), [(0.3, 5), (1.0, 3), (9.0, 1)])
def test_slow_models_run_less_often(monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int) -> None:
    watched = Watched(monkeypatch, {"a": [seconds]})
    (found,) = watched.time(Pace(rounds=2, repeats=5, seconds=0, warm_up=0, enough=2.5))
    assert [len(each) for each in found.rounds] == [runs] * 2


@pytest.mark.parametrize("counts", [{"rounds": 0}, {"repeats": 0}])
def test_paces_that_are_none(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="rounds and repeats must be at least 1, got "):
        Pace(**counts)


def test_inputs_there_are_not() -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot run it: .*q"):
        Session(build(ADD), CPU).bound({"x": normal(0, 2, 3), "q": normal(0, 2)})


def test_models_that_do_not_run() -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        time_in_turns([build(ADD)], [{"x": normal(0, 2, 4)}], RUNTIME, Pace(rounds=1))
    odd = build("g (float[N,3] x) => (float[N,3] y) { y = NoSuchOperator(x) }")
    with pytest.raises(ModelError, match="onnxruntime cannot load it"):
        time_in_turns([odd], [{"x": normal(0, 2, 3)}], RUNTIME, Pace(rounds=1))


def test_every_model_has_its_feeds() -> None:
    with pytest.raises(ValueError, match="shorter"):
        time_in_turns([build(ADD), build(ADD)], [{"x": normal(0, 2, 3)}], RUNTIME, Pace(rounds=1, repeats=1, seconds=0))


# Inputs and outputs that stay where the model runs


def bound(session: Session, feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], None], list[Any]]:
    """The bound model, and a place that its binding turns up in."""
    bindings: list[Any] = []
    inner = session._session

    class Spy:
        def io_binding(self) -> Any:
            bindings.append(inner.io_binding())
            return bindings[-1]

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    monkeypatch.setattr(session, "_session", Spy())
    return session.bound(feeds), bindings


@pytest.mark.parametrize("turned", [False, True])
def test_bound_inputs_give_what_a_plain_run_does(monkeypatch: pytest.MonkeyPatch, turned: bool) -> None:
    text = """g (float[N,3] x, double[] s, bool[2] b) => (float[N,3] y, double[] u, bool[2] c)
        { y = Add(x, x)  u = Neg(s)  c = Not(b) }"""
    x: Array = normal(0, 3, 2).T if turned else normal(0, 2, 3)
    feeds: Feeds = {"x": x, "s": np.array(3.5), "b": np.array([True, False])}
    session = Session(build(text), CPU)
    run, (binding,) = bound(session, feeds, monkeypatch)
    for _ in range(2):
        run()
    wanted = session.run(feeds)
    for name, value in zip(session.outputs, binding.copy_outputs_to_cpu(), strict=True):
        np.testing.assert_array_equal(value.reshape(wanted[name].shape), wanted[name])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": normal(0, 2, 4)}, "Got: 4 Expected: 3"),
        ({"x": normal(0, 2, 3).astype(np.float64)}, "Unexpected input data type"),
        ({}, ""),
    ],
)
def test_bound_inputs_that_do_not_fit(feeds: Feeds, message: str) -> None:
    run = Session(build(ADD), CPU, name="net.onnx").bound(feeds)
    with pytest.raises(ModelError, match=f"(?s)net.onnx: onnxruntime cannot run it: .*{message}"):
        run()


# What comes of the runs

times = st.lists(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5), min_size=1, max_size=5)


@given(times)
def test_figures_are_those_of_numpy(rounds: list[list[float]]) -> None:
    timing = Timing(tuple(map(tuple, rounds)))
    flat = [each for runs in rounds for each in runs]
    assert timing.runs == len(flat)
    assert timing.best_ms == min(flat) == timing.percentile_ms(0)
    assert timing.median_ms == pytest.approx(np.median(flat))
    assert timing.percentile_ms(100) == max(flat)
    assert timing.percentile_ms(10) <= timing.median_ms <= timing.percentile_ms(90)


@given(st.lists(st.tuples(*[st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4)] * 2), min_size=1, max_size=5))
def test_the_speedup_is_the_ratio_of_the_medians_that_are_shown(
    rounds: list[tuple[list[float], list[float]]],
) -> None:
    mine, theirs = (Timing(tuple(tuple(both[place]) for both in rounds)) for place in (0, 1))
    flat = [np.concatenate([both[place] for both in rounds]) for place in (0, 1)]
    assert mine.speedup(theirs) == pytest.approx(np.median(flat[0]) / np.median(flat[1]))
    assert mine.speedup(theirs) == mine.median_ms / theirs.median_ms
    low, high = mine.speedup_interval(theirs)
    assert low <= mine.speedup(theirs) <= high
    assert mine.speedup(mine) == 1


def test_a_round_in_which_the_machine_was_slow_does_not_count() -> None:
    before = Timing(((4.0, 4.0), (40.0, 40.0), (4.0, 4.0)))
    after = Timing(((2.0, 2.0), (20.0, 80.0), (2.0, 2.0)))
    assert before.speedup(after) == 2
    assert after.speedup(before) == pytest.approx(0.5)


def rounds_of(*ratios: float) -> tuple[Timing, Timing]:
    """Two models whose ratio changes from round to round, while the ratio of their fastest runs is 3."""
    before = Timing(tuple((3.0, ratio, ratio) if ratio >= 3 else (3.0, 3.0, 3.0) for ratio in ratios))
    after = Timing(tuple((1.0, 1.0, 1.0) if ratio >= 3 else (1.0, 3 / ratio, 3 / ratio) for ratio in ratios))
    return before, after


@pytest.mark.parametrize(
    ("ratios", "interval"),
    [
        ((3.0,), (3, 3)),
        ((3.0, 5.0), (3, 5)),
        ((2.0, 3.0, 12.0), (2, 12)),
        ((2.0, 3.0, 12.0, 4.0), (2, 12)),
        ((2.0, 3.0, 12.0, 4.0, 6.0), (2, 12)),
        ((2.0, 2.5, 12.0, 4.0, 6.0, 3.0), (2.5, 6)),  # the second of either end
        ((2.0, 2.5, 12.0, 4.0, 6.0, 3.0, 3.0), (2.5, 6)),
        ((2.0, 2.2, 2.5, 2.7, 3.0, 3.0, 4.0, 6.0, 12.0), (2.5, 4)),
        ((12.0, 12.0, 12.0), (3, 12)),  # every round was spoiled: the fastest runs know better
        ((1.0, 1.0, 1.0), (1, 3)),
    ],
)
def test_the_interval_holds_the_ratios_of_rounds_and_of_the_fastest_runs(
    ratios: tuple[float, ...], interval: tuple[float, float]
) -> None:
    before, after = rounds_of(*ratios)
    assert before.speedup_interval(after) == pytest.approx(interval)
    assert after.speedup_interval(before) == pytest.approx((1 / interval[1], 1 / interval[0]))
    assert interval[0] <= before.speedup(after) <= interval[1]


@pytest.mark.parametrize("count", range(1, 30))
def test_the_interval_covers_the_median_as_often_as_it_says(count: int) -> None:
    """The narrowest that does, by the distribution of the number of ratios below the median."""
    timing = Timing(tuple((float(number),) for number in range(1, count + 1)))
    low, high = timing.speedup_interval(Timing(((1.0,),) * count))
    low = max(low, count + 1 - high)  # the fastest run is the smallest ratio here
    covered = binom.cdf(high - 1, count, 0.5) - binom.cdf(low - 1, count, 0.5)
    assert covered >= 0.75 or (low, high) == (1, count)
    if low + 1 < high - 1:
        assert binom.cdf(high - 2, count, 0.5) - binom.cdf(low, count, 0.5) < 0.75


def test_rounds_are_joined() -> None:
    assert Timing(((1.0,), (2.0,))).joined(Timing(((3.0,),))) == Timing(((1.0,), (2.0,), (3.0,)))


def test_only_as_many_rounds_can_be_compared() -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        Timing(((1.0,),)).speedup_interval(Timing(((1.0,), (1.0,))))
