"""What a conversion is said to bring in milliseconds, where the clock is made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_lowrank import RankPlan, Settings, convert
from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.plan import METHODS, LayerPlan, largest_ranks, rank_kinds
from onnx_lowrank.pipeline import conversion_timer, open_conversion
from onnx_lowrank.runtime.latency import ConversionTimer, Latency, with_random_factors
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine
from onnx_lowrank.runtime.layer_latency import LayerTimer
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network, count_macs, open_network
from onnx_lowrank.runtime.progress import Silent
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.runtime.written_file import slow_warnings
from tests.helpers import (
    CPU,
    MadeUpClock,
    Work,
    build,
    filters,
    is_one_layer,
    normal,
    plain_network,
    run,
    set_clock,
    work,
)
from tests.networks import images, network

PLAN = RankPlan(
    (
        LayerPlan("c0"),
        LayerPlan("c1", "channel", 8),
        LayerPlan("c2", "spatial", spatial=12),
        LayerPlan("c3", "spatial-channel", 8, 12),
        LayerPlan("c4", "channel", 4),
    )
)
RATE = 1e5  # multiply-adds in a millisecond


class Opened(NamedTuple):
    """A network to time, its layers, one batch for it, and its timer."""

    network: Network
    layers: LayerSet
    feeds: dict[str, Any]
    timer: ConversionTimer


def opened(model: onnx.ModelProto, size: int = 8) -> Opened:
    network = open_network(model, choose_provider("cpu", 1), {})
    feeds = {"x": images(1, size)}
    timer = ConversionTimer(network, feeds, LayerTimer(network.provider, 1), Silent())
    return Opened(network, network.layers(feeds), feeds, timer)


def slow_warning(opened: Opened, latency: Latency, **settings: Any) -> str:
    """The warning, or nothing."""
    return "".join(slow_warnings(latency, opened.layers, PLAN, Settings(**settings), opened.timer))


def by_macs(model: onnx.ModelProto | Path) -> float:
    return sum(each.macs for each in work(model)) / RATE


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MadeUpClock:
    """A clock that shows multiply-adds."""
    return set_clock(monkeypatch, tmp_path / "cache", by_macs)


@pytest.fixture
def plain(made_up: MadeUpClock) -> Opened:
    return opened(plain_network())


def latency(before: float, after: float) -> Latency:
    return Latency(Timing(((before,),)), Timing(((after,),)), 1, 1)


def busy_latency(*ratios: float) -> Latency:
    """A network of 30 ms whose converted one takes 10 ms, measured while the machine was slow in some rounds."""
    before = Timing(tuple((10 * ratio,) for ratio in ratios))
    return Latency(before, Timing(((10.0,),) * len(ratios)), 1, 1)


class BusyClock:
    """Takes the place of `time_in_turns`: the ratio of the first to the other networks, round by round."""

    def __init__(self, *ratios: float) -> None:
        self.ratios, self.calls = list(ratios), 0

    def __call__(self, models: list[Any], _feeds: Any, _provider: Any, pace: Any) -> list[Timing]:
        self.calls += 1
        now, self.ratios = self.ratios[: pace.rounds], self.ratios[pace.rounds :]
        return [Timing(tuple((ratio,) for ratio in now)), *[Timing(((1.0,),) * pace.rounds)] * (len(models) - 1)]


@pytest.mark.parametrize(
    ("ratios", "steady"),
    [((3.0, 3.0, 3.0), True), ((2.7, 3.0, 3.3), True), ((2.5, 3.0, 3.3), False), ((3.0, 12.07, 12.1), False)],
)
def test_a_speedup_is_steady_where_its_bounds_are_close(ratios: tuple[float, ...], steady: bool) -> None:
    facts = busy_latency(*ratios).to_dict()
    assert facts["steady"] is steady
    assert facts["interval"] == pytest.approx([ratios[0], ratios[-1]])
    assert facts["ratio"] == facts["speedup"] == pytest.approx(ratios[1])


def test_unsteady_networks_are_timed_once_more(plain: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    for ratios, calls, interval in (
        ([3.0, 3.1, 3.2], 1, (3.0, 3.2)),
        ([3.0, 3.1, 12.0, 3.0, 3.2, 3.1], 2, (3.0, 3.2)),
        ([3.0, 11.0, 12.0, 9.0, 3.2, 3.1], 2, (3.0, 11.0)),
    ):
        clock = BusyClock(*ratios)
        monkeypatch.setattr("onnx_lowrank.runtime.latency.time_in_turns", clock)
        found = plain.timer.time(plain.network.model)
        assert clock.calls == calls
        assert found.interval == pytest.approx(interval)
        assert found.steady == (interval[1] < 4)


def test_choosing_ranks_takes_no_second_look(plain: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = BusyClock(3.0, 11.0, 12.0)
    monkeypatch.setattr("onnx_lowrank.runtime.latency.time_in_turns", clock)
    found = plain.timer.time_plan(plain.layers.eligible, PLAN)
    assert (clock.calls, found.best_speedup) == (1, 3.0)


def test_an_unsteady_speedup_is_slow_where_its_upper_bound_is(plain: Opened, made_up: MadeUpClock) -> None:
    assert slow_warning(plain, busy_latency(0.3, 0.5, 5.0)) == ""
    text = slow_warning(plain, busy_latency(0.3, 0.5, 0.9))
    assert text.startswith("measured speedup 0.90 at most is under 80 %")


# The stand-in network


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(METHODS), st.integers(1, 24), st.integers(1, 24)), min_size=5, max_size=5))
def test_random_factors_have_the_multiply_adds_that_are_planned(
    plain: Opened, entries: list[tuple[str, int, int]]
) -> None:
    planned = []
    for layer, (method, channel, spatial) in zip(plain.layers.eligible, entries, strict=True):
        largest = largest_ranks(layer)
        wanted = {"channel": channel, "spatial": spatial, "input": spatial}
        ranks = {kind: min(wanted[kind], largest[kind]) for kind in rank_kinds(method)}
        planned.append(LayerPlan(layer.name, method, **ranks))
    plan = RankPlan(tuple(planned))
    model = plain.network.model
    before = model.SerializeToString()
    found = with_random_factors(model, plain.layers.eligible, plan)
    assert count_macs(found, plain.feeds, CPU) == sum(plain.layers.planned_macs(plan))
    assert model.SerializeToString() == before
    (output,) = run(found, plain.feeds).values()
    assert output.shape == run(model, plain.feeds)["y"].shape
    assert np.isfinite(output).all()


def test_random_factors_have_the_nodes_of_the_converted_network(plain: Opened) -> None:
    converted = convert(plain_network(), images(24, 8), plan=PLAN, samples=20, bench=False).model
    assert converted is not None
    found = with_random_factors(plain.network.model, plain.layers.eligible, PLAN)
    assert list(found.graph.node) == list(converted.graph.node)
    shapes = [{tensor.name: list(tensor.dims) for tensor in each.graph.initializer} for each in (found, converted)]
    assert shapes[0] == shapes[1]


def test_random_factors_with_folded_nodes_residuals_and_a_head() -> None:
    original, layers, feeds, _ = opened(network(), 12)
    plan = RankPlan(tuple(LayerPlan(layer.name, "channel", 4) for layer in layers.eligible))
    found = with_random_factors(original.model, layers.eligible, plan)
    onnx.checker.check_model(found, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in found.graph.node}
    assert count_macs(found, feeds, CPU) == sum(layers.planned_macs(plan))


# Both networks in turns


def test_the_original_and_the_converted_network_are_timed_together(plain: Opened, made_up: MadeUpClock) -> None:
    converted = with_random_factors(plain.network.model, plain.layers.eligible, PLAN)
    found = plain.timer.time(converted)
    assert made_up.networks == [[plain.network.model, converted]]
    assert plain.timer.time_plan(plain.layers.eligible, PLAN) == found
    macs = plain.layers.macs, sum(plain.layers.planned_macs(PLAN))
    assert found.to_dict() == {
        "before_ms": pytest.approx(macs[0] / RATE),
        "after_ms": pytest.approx(macs[1] / RATE),
        "speedup": pytest.approx(macs[0] / macs[1]),
        "ratio": pytest.approx(macs[0] / macs[1]),
        "interval": [pytest.approx(macs[0] / macs[1])] * 2,
        "steady": True,
        "batch": 1,
        "threads": 1,
        "runtime": {"name": "onnxruntime", "version": onnxruntime.__version__, "precision": "f32", "threads": 1},
    }


def test_a_file_is_timed_as_it_is_on_the_disk(plain: Opened, tmp_path: Path) -> None:
    onnx.save(plain.network.model, tmp_path / "same.onnx")
    assert plain.timer.time(tmp_path / "same.onnx").speedup == 1


def test_default_threads_are_none_in_the_report() -> None:
    assert Latency(Timing(((2.0,),)), Timing(((1.0,),)), 3, 0).to_dict()["threads"] is None


@pytest.mark.parametrize(("before", "telling"), [(0.1, False), (0.29, False), (0.3, True), (5.0, True)])
def test_networks_that_take_no_time_tell_nothing(before: float, telling: bool) -> None:
    assert latency(before, 1e-6).telling is telling


# Batches


def calibrated(
    model: onnx.ModelProto, data: Any, **changes: Any
) -> tuple[Network, LayerSet, CalibrationSet, ConversionTimer]:
    chosen = Settings(samples=20, provider="cpu", threads=1, **changes)
    original, layers, calibration = open_conversion(model, data, None, chosen)
    return original, layers, calibration, conversion_timer(original, calibration, chosen, Monitor())


@pytest.mark.parametrize(
    ("batch", "shapes", "wanted"),
    [
        ("N", {}, 1),
        ("N", {"x": (6, 3, 12, 12)}, 6),
        ("N", {"": (6, 3, 12, 12)}, 6),
        ("4", {}, 4),
        ("4", {"x": (4, 3, 12, 12)}, 4),
    ],
)
def test_the_batch_is_that_of_the_model_or_of_the_shape_that_was_given(
    made_up: MadeUpClock, batch: str, shapes: dict[str, tuple[int, ...]], wanted: int
) -> None:
    original, layers, calibration, timer = calibrated(network(batch), images(24), input_shapes=shapes)
    assert timer.layer_timer.batch == wanted
    feeds = calibration.repeated(wanted)
    assert {name: values.shape for name, values in feeds.items()} == {"x": (wanted, 3, 12, 12)}
    if batch == "N":
        np.testing.assert_array_equal(feeds["x"], images(24)[calibration.split.calibration[:wanted]])
    timer.measure_layers(layers.eligible, RankPlan(tuple(LayerPlan(layer.name) for layer in layers.eligible)))
    batches = [model.graph.input[0].type.tensor_type.shape.dim[0].dim_value for model in made_up.layers]
    assert set(batches) == {wanted}
    assert timer.time(original.model).to_dict()["batch"] == wanted
    timer.original_ms()
    assert [values.shape for values in made_up.feeds[-1][-1].values()] == [(wanted, 3, 12, 12)]


def test_several_inputs_grow_together(made_up: MadeUpClock) -> None:
    model = build(
        """g (float[N,3,8,8] a, float[N,3,8,8] b) => (float[N,8,8,8] y)
            { s = Add(a, b)  c = Conv<pads=[1,1,1,1]>(s, w)  y = Relu(c) }""",
        {"w": filters(0, 8, 3, 3, 3)},
    )
    data = {"a": images(24, 8), "b": images(24, 8, seed=1)}
    original, _, _, timer = calibrated(model, data, input_shapes={"a": (5, 3, 8, 8), "b": (5, 3, 8, 8)})
    timer.time(original.model)
    (feeds, _) = made_up.feeds[-1]
    assert {name: values.shape for name, values in feeds.items()} == dict.fromkeys("ab", (5, 3, 8, 8))


# Warnings


def test_below_four_fifths_of_the_multiply_adds_there_is_a_warning(plain: Opened, made_up: MadeUpClock) -> None:
    speedup = plain.layers.macs / sum(plain.layers.planned_macs(PLAN))
    assert speedup > 1.5
    assert slow_warning(plain, latency(10, 10 / (0.81 * speedup))) == ""
    assert made_up.layers == []  # nothing needs to be looked at
    text = slow_warning(plain, latency(10, 10 / (0.79 * speedup)))
    expected = f"measured speedup {0.79 * speedup:.2f} is under 80 % of the {speedup:.2f} that multiply-adds promise"
    assert text == f"{expected}: `cost='latency'` spends milliseconds instead, `exclude` leaves layers out"


def test_what_takes_no_time_is_no_reason_to_warn(plain: Opened, made_up: MadeUpClock) -> None:
    assert slow_warning(plain, latency(0.2, 0.4)) == ""


@pytest.fixture
def slow_chains(made_up: MadeUpClock) -> dict[str, float]:
    """A clock that takes longer for the chains of some layers; by how many milliseconds."""
    lost = {"c2": 9.0, "c4": 5.0, "c1": 2.0}
    first_filters = {"c1": (8, 32, 3, 3), "c2": (12, 32, 3, 1), "c4": (4, 32, 3, 3)}

    def milliseconds(model: onnx.ModelProto | Path) -> float:
        found = work(model)
        names = [name for name, weight in first_filters.items() if found[0].weight == weight and len(found) == 2]
        return by_macs(model) + sum(lost[name] for name in names)

    made_up.milliseconds = milliseconds
    return lost


def test_the_layers_at_fault_are_named_with_their_times(plain: Opened, slow_chains: dict[str, float]) -> None:
    text = slow_warning(plain, latency(10, 10))
    named = text.partition("most is lost in ")[2].partition(": `cost")[0].split(", ")
    after = dict(zip((entry.name for entry in PLAN), plain.layers.planned_macs(PLAN), strict=True))
    kept = plain.layers.eligible[1].macs
    assert named == [
        f"Conv '{name}' {kept / RATE:.3g} -> {after[name] / RATE + ms:.3g} ms at {kept / after[name]:.1f}x fewer MACs"
        for name, ms in slow_chains.items()
    ]
    worst = f"({kept / RATE:.3g} -> {after['c2'] / RATE + 9:.3g} ms)"
    assert f"; 1 of 4 factorized layers run slower than before, Conv 'c2' most {worst}; most is lost" in text


def test_layers_that_run_slower_are_named_where_few_multiply_adds_are_saved(
    plain: Opened, slow_chains: dict[str, float]
) -> None:
    """Within 80 % of a small promise, but no faster than before."""
    slow_chains["c4"] = 9.0
    plan = RankPlan((*(LayerPlan(f"c{number}") for number in range(4)), LayerPlan("c4", "channel", 4)))
    promise = plain.layers.macs / sum(plain.layers.planned_macs(plan))
    assert 1.05 < promise < 1.3
    (text,) = slow_warnings(latency(10, 10 / 1.04), plain.layers, plan, Settings(), plain.timer)
    head = f"measured speedup 1.04, {promise:.2f} that multiply-adds promise; 1 of 1 factorized layers run slower"
    assert text.startswith(head)
    assert slow_warnings(latency(10, 10 / 1.06), plain.layers, plan, Settings(), plain.timer) == ()


def test_no_layer_is_named_that_loses_nothing(plain: Opened, made_up: MadeUpClock) -> None:
    made_up.milliseconds = by_macs
    assert re.fullmatch(
        r"measured speedup 1\.00 is under 80 % of the \d\.\d\d that multiply-adds promise: `cost='latency'` .*",
        slow_warning(plain, latency(10, 10)),
    )


def test_ranks_chosen_by_time_are_not_held_against_multiply_adds(plain: Opened, made_up: MadeUpClock) -> None:
    assert slow_warning(plain, latency(10, 10 / 2.8), cost="latency", speedup=3.0) == ""
    assert made_up.layers == []


# In the report


def quick(**changes: Any) -> Any:
    return convert(plain_network(), images(24, 8), **{"samples": 20, "provider": "cpu", "threads": 1} | changes)


def test_the_report_says_what_was_measured(made_up: MadeUpClock) -> None:
    result = quick(plan=PLAN)
    report = json.loads(result.report.to_json())
    assert report["latency"]["speedup"] == report["speedup"]["latency"] == pytest.approx(report["speedup"]["macs"])
    assert report["latency"]["batch"] == report["latency"]["threads"] == 1
    assert report["latency"]["before_ms"] > report["latency"]["after_ms"]
    assert report["seconds"]["bench"] >= 0
    assert len(made_up.networks) == 1
    # Nothing was slow, so no layer had to be looked at.
    assert [layer["latency_ms"] for layer in report["layers"]] == [{"before": None, "after": None}] * 5


def test_layers_that_were_looked_at_are_in_the_report(made_up: MadeUpClock) -> None:
    made_up.milliseconds = lambda model: by_macs(model) if is_one_layer(model) else 1.0
    report = quick(plan=PLAN).to_dict()
    for layer in report["layers"]:
        assert layer["latency_ms"]["before"] == pytest.approx(layer["macs"]["before"] / RATE)
        assert layer["latency_ms"]["after"] == pytest.approx(layer["macs"]["after"] / RATE)


def test_without_a_bench_nothing_is_timed(made_up: MadeUpClock, tmp_path: Path) -> None:
    for changes in ({"speedup": 2.0}, {"plan": PLAN}, {"cost": "params", "speedup": 2.0}):
        report = quick(bench=False, **changes).to_dict()
        assert report["latency"] is None
        assert report["speedup"]["latency"] is None
    assert made_up.layers == made_up.networks == []
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_times_no_converted_network(made_up: MadeUpClock) -> None:
    report = quick(plan=PLAN, dry_run=True).to_dict()
    assert report["latency"] is None
    assert made_up.networks == []


def test_the_result_of_a_table_from_elsewhere_is_not_timed_here(made_up: MadeUpClock, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    table.write_text(LatencyTable(Machine("onnxruntime", "1.0", "f32", "cpu", "a board", 4, 8)).to_json())
    report = quick(plan=PLAN, cost="latency", latency_table=table).to_dict()
    assert report["latency"] is None
    assert made_up.networks == []


def test_real_clocks_agree_that_a_hundredth_of_the_work_takes_less() -> None:
    """On a machine as busy as it likes: 1 of 64 ranks in two layers of 64 channels on maps of 32 x 32."""
    text = """g (float[N,3,32,32] x) => (float[N,64,1,1] y) {
        c0 = Conv<pads=[1,1,1,1]>(x, w0)  r0 = Relu(c0)
        c1 = Conv<pads=[1,1,1,1]>(r0, w1)  r1 = Relu(c1)
        c2 = Conv<pads=[1,1,1,1]>(r1, w2)  r2 = Relu(c2)
        y = GlobalAveragePool(r2)
    }"""
    weights = {"w0": filters(0, 64, 3, 3, 3), "w1": filters(1, 64, 64, 3, 3), "w2": filters(2, 64, 64, 3, 3)}
    large = opened(build(text, weights), 32)
    plan = RankPlan((LayerPlan("c0"), *(LayerPlan(name, "channel", 1) for name in ("c1", "c2"))))
    assert large.timer.time_plan(large.layers.eligible, plan).speedup > 1.3


def test_the_made_up_clock_counts_as_the_package_does() -> None:
    model = network()
    feeds = {"x": normal(0, 1, 3, 12, 12)}
    dense = 16 * 5
    assert sum(each.macs for each in work(model)) == count_macs(model, feeds, CPU) - dense
    assert Work((30, 10, 3, 3), 4, 1).blocked(8) == 4 * 9 * 32 * 16
