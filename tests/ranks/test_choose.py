"""Ranks by multiply-adds, which no clock has a say in, and ranks by milliseconds; the clock is made up."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_lowrank import LayerPlan, RankPlan, Result, Settings, convert, sweep
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.ranks import milliseconds
from onnx_lowrank.ranks.coupled import Coupling
from onnx_lowrank.ranks.select import Option
from onnx_lowrank.ranks.within import Budget, best_within
from onnx_lowrank.runtime.latency import ConversionTimer, Latency
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine
from tests.helpers import (
    MadeUpClock,
    build,
    filters,
    is_one_layer,
    plain_network,
    relative,
    run,
    set_clock,
    work,
)
from tests.networks import images

SAME = "pads=[1,1,1,1]"
RATE = 1e5  # multiply-adds in a millisecond


def mobile() -> onnx.ModelProto:
    """What MobileNet is made of: depthwise convolutions and 1 x 1 ones; and one 3 x 3 at the end."""
    weights = {f"p{number}": filters(number, 32, 32, 1, 1) for number in (1, 2, 3)}
    weights |= {f"d{number}": filters(number + 10, 32, 1, 3, 3) for number in (1, 2, 3)}
    blocks = "\n".join(
        f"""depth{number} = Conv<{SAME}, group=32>({before}, d{number})  a{number} = Relu(depth{number})
        point{number} = Conv(a{number}, p{number})  b{number} = Relu(point{number})"""
        for number, before in ((1, "r0"), (2, "b1"), (3, "b2"))
    )
    return build(
        f"""g (float[N,3,8,8] x) => (float[N,32,1,1] y) {{
            stem = Conv<{SAME}>(x, s)  r0 = Relu(stem)
            {blocks}
            last = Conv<{SAME}, strides=[2,2]>(b3, l)  r4 = Relu(last)
            y = GlobalAveragePool(r4)
        }}""",
        weights | {"s": filters(20, 32, 3, 3, 3), "l": filters(21, 32, 32, 3, 3)},
    )


def converted(model: onnx.ModelProto, **changes: Any) -> Result:
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    chosen = {"speedup": 2.0, "samples": 30, "provider": "cpu", "threads": 1, "rank_multiple": 1} | changes
    return convert(model, images(40, size), **chosen)


def model_of(result: Result) -> onnx.ModelProto:
    assert result.model is not None
    return result.model


def by_name(result: Result) -> dict[str, dict[str, Any]]:
    return {layer["name"]: layer for layer in result.to_dict()["layers"]}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def pointwise_is_dear(model: onnx.ModelProto | Path) -> float:
    """Two milliseconds for any 1 x 1 convolution; multiply-adds for others."""
    return sum(2.0 if each.weight[2:] == (1, 1) else 0.05 + each.macs / RATE for each in work(model))


# Multiply-adds, whatever the clock says


def everything_is_dear(model: onnx.ModelProto | Path) -> float:
    """A millisecond for every convolution: any chain takes longer than its layer."""
    return float(len(work(model)))


def only_the_whole_is_slow(model: onnx.ModelProto | Path) -> float:
    """Time passes between convolutions: every chain is faster alone than its layer, the whole is not."""
    return by_work(model) + (0 if is_one_layer(model) else len(work(model)))


def by_work(model: onnx.ModelProto | Path) -> float:
    return sum(each.macs for each in work(model)) / RATE


@pytest.mark.parametrize("milliseconds", [pointwise_is_dear, everything_is_dear, only_the_whole_is_slow, by_work])
@pytest.mark.parametrize("cost", ["macs", "params"])
def test_counts_give_the_same_bytes_whatever_a_clock_says(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    milliseconds: Callable[[onnx.ModelProto | Path], float],
    cost: str,
) -> None:
    clock = set_clock(monkeypatch, tmp_path, milliseconds)
    chosen = {"method": "spatial-channel", "cost": cost, "refine": "none"}
    without = converted(mobile(), bench=False, **chosen)
    assert clock.layers == clock.networks == []
    result = converted(mobile(), **chosen)
    assert [len(each) for each in clock.networks] == [2]  # what was written, and not before
    assert model_of(result).SerializeToString(deterministic=True) == model_of(without).SerializeToString(
        deterministic=True
    )
    assert result.plan == without.plan
    assert result.to_dict()["layers"][1]["reason"] == without.to_dict()["layers"][1]["reason"]


def test_layers_that_run_slower_are_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_clock(monkeypatch, tmp_path, pointwise_is_dear)
    result = converted(mobile(), method="spatial-channel")
    factorized = [entry.name for entry in result.plan if entry.method != "kept"]
    dear = [name for name in factorized if name.startswith("point")]
    assert len(dear) > 1  # there is no other way to 2x
    speedup = pointwise_is_dear(mobile()) / pointwise_is_dear(model_of(result))
    (warning,) = result.report.warnings
    found = re.fullmatch(
        r"measured speedup (\S+) is under 80 % of the (\S+) that multiply-adds promise; "
        r"(\d) of (\d) factorized layers run slower than before, Conv '(\w+)' most \(2 -> 4 ms\); "
        r"most is lost in (.*): `cost='latency'` spends milliseconds instead, `exclude` leaves layers out",
        warning.text,
    )
    assert found is not None, warning.text
    assert float(found[1]) == pytest.approx(speedup, abs=0.005)
    assert float(found[2]) == pytest.approx(result.report.speedup, abs=0.005)
    slower = [name for name, layer in by_name(result).items() if is_slower(layer)]
    assert (int(found[3]), int(found[4])) == (len(slower), len(factorized))
    assert set(dear) <= set(slower)
    assert found[5] in slower
    assert warnings(caplog) == [warning.text]
    assert result.to_dict()["warnings"] == [warning.to_dict()]


def is_slower(layer: dict[str, Any]) -> bool:
    before, after = (layer["latency_ms"][key] for key in ("before", "after"))
    return layer["method"] != "kept" and after > 1.05 * before


def test_a_network_that_comes_out_as_fast_as_promised_is_not_looked_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = set_clock(monkeypatch, tmp_path, by_work)
    result = converted(plain_network())
    assert clock.layers == []
    assert warnings(caplog) == []
    assert result.report.warnings == ()
    assert [len(each) for each in clock.networks] == [2]


def test_a_network_that_takes_no_time_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = set_clock(monkeypatch, tmp_path, lambda model: 0.01 * len(work(model)))
    result = converted(plain_network())
    assert clock.layers == []
    assert warnings(caplog) == []
    assert result.to_dict()["latency"]["speedup"] < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": "params", "speedup": 3.0, "method": "spatial-channel"},
        {"plan": RankPlan((LayerPlan("point1", "channel", 4),))},
    ],
)
def test_plans_and_parameters_are_held_against_their_multiply_adds_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    set_clock(monkeypatch, tmp_path, pointwise_is_dear)
    result = converted(mobile(), **changes)
    factorized = [name for name, layer in by_name(result).items() if layer["method"] != "kept"]
    assert any(name.startswith("point") for name in factorized)
    assert result.to_dict()["latency"]["speedup"] < 1
    assert any("is under 80 % of the" in each and " 2 -> 4 ms" in each for each in warnings(caplog))


def test_a_dry_run_plans_as_the_real_one_does_and_times_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = set_clock(monkeypatch, tmp_path, pointwise_is_dear)
    plan = converted(mobile(), dry_run=True).plan
    assert clock.layers == clock.networks == []
    assert plan == converted(mobile()).plan


def test_a_slow_whole_without_a_slow_layer_blames_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_clock(monkeypatch, tmp_path, only_the_whole_is_slow)
    result = converted(plain_network())
    assert result.report.speedup >= 2
    (warning,) = result.report.warnings
    assert warning.code == "slow"
    assert "is under 80 % of the" in warning.text
    assert "run slower than before" not in warning.text


def test_a_little_slower_is_within_what_clocks_differ_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Chains take 4 % longer than their layers: no reason to name any."""
    alone = {(32, 3), (32, 32)}

    def milliseconds(model: onnx.ModelProto | Path) -> float:
        if is_one_layer(model):
            return 1.0 if len(work(model)) == 1 else 1.04
        return 10.0 if all(each.weight[:2] in alone for each in work(model)) else 9.8

    set_clock(monkeypatch, tmp_path, milliseconds)
    result = converted(plain_network(), speedup=1.2, method="channel")
    assert result.to_dict()["latency"]["speedup"] == pytest.approx(10 / 9.8)
    assert result.report.warnings == ()


# Targets that the sizes of layers rule out


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("method", ["auto", "channel", "width"])
def test_what_is_out_of_reach_is_known_before_any_sample_is_run(
    monkeypatch: pytest.MonkeyPatch, cost: str, method: str
) -> None:
    model, how = mobile(), {"cost": cost, "method": method, "rank_multiple": 4}
    with pytest.raises(BudgetError) as caught:
        converted(model, speedup=900.0, bench=False, **how)
    told = re.fullmatch(
        rf"speedup 900 cannot be reached, the largest that can is (\S+) \(\S+ {cost}, of which \S+ are in layers that "
        r"stay\): lower `speedup`",
        str(caught.value),
    )
    assert told is not None
    largest = float(told[1])
    assert converted(model, speedup=largest - 0.01, dry_run=True, **how).plan
    monkeypatch.setattr("onnx_lowrank.pipeline.collect_targets", None)  # calling it would be another error
    with pytest.raises(BudgetError, match="cannot be reached"):
        converted(model, speedup=largest + 0.01, **how)
    with pytest.raises(BudgetError, match=f"speedup {largest + 0.01:g} cannot be reached"):
        sweep(model, images(40, 8), [largest + 0.01, 900.0], samples=30, **how)


def test_channels_go_in_front_where_either_of_two_layers_could_lose_them() -> None:
    """What is behind makes good for an early error, not for a late one."""
    whole = Option(LayerPlan("c"), 100.0, 100.0)
    half = Option(LayerPlan("c", "width", width=8, energy=0.9), 50.0, 50.0, 0.5)
    options, coupling = [[whole, half], [whole, half]], Coupling([], [0.0, 0.0])
    chosen = best_within(options, Budget(150.0, 200.0, 0.0), coupling, Settings(method="width"), on_gpu=False)
    assert [each.share for each in chosen] == [0.5, 1.0]
    late = [[whole, half], [whole, replace(half, plan=replace(half.plan, energy=0.96))]]  # .04 counts .12
    chosen = best_within(late, Budget(150.0, 200.0, 0.0), coupling, Settings(method="width"), on_gpu=False)
    assert [each.share for each in chosen] == [0.5, 1.0]


def test_targets_of_a_sweep_that_are_out_of_reach_are_named_first(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="onnx_lowrank"):
        found = sweep(plain_network(), images(40, 8), [1.5, 900.0], samples=30, bench=False, refine="none")
    messages = [each.getMessage() for each in caplog.records]
    (left_out,) = (
        n for n, text in enumerate(messages) if text.startswith("target 900x is left out: speedup 900 cannot")
    )
    assert left_out < messages.index("target 1.5x")
    assert [point.error is None for point in found.report.points] == [True, False]


# Milliseconds

BLOCK = 4


def blocked(model: onnx.ModelProto | Path) -> float:
    """A little for every convolution, and multiply-adds with channels rounded up to blocks."""
    return sum(0.02 + each.blocked(BLOCK) / RATE for each in work(model))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MadeUpClock:
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    return set_clock(monkeypatch, tmp_path / "cache", blocked)


def by_time(model: onnx.ModelProto, **changes: Any) -> Result:
    return converted(model, **{"cost": "latency", "rank_multiple": None} | changes)


@pytest.mark.parametrize("method", ["auto", "channel", "spatial", "spatial-channel"])
@pytest.mark.parametrize("speedup", [1.5, 2.5])
def test_the_clock_says_what_was_asked_for(clock: MadeUpClock, method: str, speedup: float) -> None:
    result = by_time(plain_network(), speedup=speedup, method=method)
    found = blocked(plain_network()) / blocked(model_of(result))
    assert found == pytest.approx(result.report.to_dict()["speedup"]["latency"])
    assert 0.995 * speedup <= found <= 1.1 * speedup
    if method == "auto":  # layers add up to the whole on this clock, so nothing has to be corrected
        # The original, a stand-in, the result as it was solved and as it was written.
        assert [len(each) for each in clock.networks] == [1, 2, 2, 2]


def test_blocks_that_cost_the_same_are_filled(clock: MadeUpClock) -> None:
    """With ranks free to be any number, those in between cost as much as the next whole block."""
    result = by_time(plain_network(), rank_multiple=1)
    ranks = [rank for entry in result.plan for rank in (entry.channel, entry.spatial) if rank is not None]
    assert ranks
    assert all(rank % BLOCK == 0 or rank in {27, 9} for rank in ranks)


def test_it_spends_the_time_where_multiply_adds_are_dear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where 1 x 1 convolutions take for ever, spatial pairs are chosen; where 1 x 3 ones do, channel pairs."""
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    for kernel, wanted in (((1, 1), "spatial"), ((1, 3), "channel")):

        def milliseconds(model: onnx.ModelProto | Path, dear: tuple[int, ...] = kernel) -> float:
            return blocked(model) + sum(9.0 for each in work(model) if each.weight[2:] == dear)

        set_clock(monkeypatch, tmp_path / wanted, milliseconds)
        result = by_time(plain_network())
        assert {entry.method for entry in result.plan} - {"kept"} == {wanted}


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_budget_is_corrected_by_the_whole_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Chains are slower, or faster, among their neighbours than alone."""

    def milliseconds(model: onnx.ModelProto | Path) -> float:
        if is_one_layer(model):
            return blocked(model)
        chains = 0.0
        for each in work(model):
            chains += (0.02 + each.blocked(BLOCK) / RATE) * (1 if each.weight[:2] in {(32, 3), (32, 32)} else factor)
        return chains

    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    clock = set_clock(monkeypatch, tmp_path, milliseconds)
    with caplog.at_level(logging.INFO):
        result = by_time(plain_network(), speedup=2.0, method="channel")
    first, *_, last = re.findall(r"measured speedup (\S+)", caplog.text)
    assert abs(float(last) - 2.04) < abs(float(first) - 2.04)
    assert 1.95 <= result.to_dict()["speedup"]["latency"] <= 2.15
    assert 4 <= len(clock.networks) <= 1 + 6 + 2
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("measured", "taken"), [((1.4, 1.2, 1.9, 1.6, 2.6, 1.3), 2), ((1.6, 2.8, 2.7, 2.9, 1.7, 2.6), 5)]
)
def test_of_all_that_was_tried_the_nearest_that_is_enough_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: Sequence[float], taken: int
) -> None:
    """A clock on which no try is any good: 1.4, 1.2, 1.9, ... instead of 2."""
    speedups = iter(measured)
    tried: list[RankPlan] = []
    real = ConversionTimer.time_plan

    def spy(timer: ConversionTimer, layers: Any, plan: RankPlan) -> Latency:
        tried.append(plan)
        return real(timer, layers, plan)

    def milliseconds(model: onnx.ModelProto | Path) -> float:
        if is_one_layer(model):
            return blocked(model)
        return blocked(plain_network()) / (1 if len(work(model)) == 5 else next(speedups))

    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    monkeypatch.setattr(ConversionTimer, "time_plan", spy)
    set_clock(monkeypatch, tmp_path, milliseconds)
    result = by_time(plain_network(), dry_run=True, speedup=2.0)
    assert 4 <= len(tried) <= 6
    assert result.plan == tried[taken]


def test_the_next_budget_lies_on_the_line_through_what_was_tried() -> None:
    """Time that is no multiple of the layers' sum: 0.1 + 0.2 a millisecond."""
    share = {budget: 0.1 + 0.2 * budget for budget in (2.0, 1.5)}
    assert milliseconds._next_budget(share, 0.35) == pytest.approx(1.25, abs=1e-12)
    assert milliseconds._next_budget(share, 0.01) == pytest.approx(0.6 * 1.5, abs=1e-12)  # no long steps
    assert milliseconds._next_budget(share, 0.99) == pytest.approx(1.6 * 1.5, abs=1e-12)
    assert milliseconds._next_budget({2.0: 0.5}, 0.4) == pytest.approx(1.6, abs=1e-12)
    assert milliseconds._next_budget({2.0: 0.5}, 0.1) == pytest.approx(1.2, abs=1e-12)
    assert milliseconds._next_budget({2.0: 0.1}, 0.9) == pytest.approx(3.2, abs=1e-12)
    assert milliseconds._next_budget({2.0: 0.4, 1.5: 0.5}, 0.3) == pytest.approx(0.9, abs=1e-12)  # noise: no line


def test_the_next_budget_lies_between_one_that_is_too_small_and_one_that_is_too_large() -> None:
    tried = {9.0: 0.95, 2.0: 0.1, 5.0: 0.7}
    assert milliseconds._next_budget(tried, 0.4) == pytest.approx(3.5, abs=1e-12)
    assert milliseconds._next_budget(tried, 0.11) == pytest.approx(2.3, abs=1e-12)  # clear of the ends
    assert milliseconds._next_budget(tried, 0.69) == pytest.approx(4.7, abs=1e-12)


@pytest.mark.parametrize("aim", [0.15, 0.33, 0.6])
def test_few_tries_are_enough_where_time_is_far_from_a_line(aim: float) -> None:
    """As in a runtime whose layers were timed in another one: next to nothing at first, all of it soon after."""

    def share(budget: float) -> float:
        return min(1.0, 0.04 + max(0.0, budget - 1.3) ** 0.6)

    tried, budget = dict[float, float](), 1.26
    while len(tried) < 6 and not any(abs(each / aim - 1) < 0.05 for each in tried.values()):
        tried[budget] = share(budget)
        budget = milliseconds._next_budget(tried, aim)
    assert any(abs(each / aim - 1) < 0.05 for each in tried.values())


def test_whatever_the_layers_do_not_account_for_is_fixed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half of the time passes between the convolutions: twice as fast as a whole cannot be had from them alone."""
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    fixed = blocked(plain_network())
    set_clock(monkeypatch, tmp_path, lambda model: blocked(model) + (0 if is_one_layer(model) else fixed))
    with pytest.raises(BudgetError) as caught:
        by_time(plain_network(), speedup=2.0)
    text = str(caught.value)
    assert text.startswith("speedup 2 cannot be reached, the largest that can is 1.")
    assert f"(measured; {fixed:.4g} of {2 * fixed:.4g} ms are in layers that stay): lower `speedup`" in text
    result = by_time(plain_network(), speedup=1.4)
    assert 1.39 <= result.to_dict()["speedup"]["latency"] <= 1.5


def test_only_layers_that_may_be_touched_are_timed(clock: MadeUpClock) -> None:
    by_time(plain_network(), exclude=["c[034]"], speedup=1.2, dry_run=True)
    first = {each.weight for model in clock.layers for each in work(model)[:1]}
    assert {(32, 3, 3, 3)} & first == set()
    # c1 and c2 are alike in shape, and timed once: the layer, and five grids.
    assert len({model.SerializeToString() for model in clock.layers}) * 3 == len(clock.layers)


def test_what_was_measured_is_remembered(clock: MadeUpClock) -> None:
    first = by_time(plain_network())
    layers = len(clock.layers)
    assert layers > 0
    second = by_time(plain_network(), speedup=1.8)
    assert len(clock.layers) <= layers + 1  # at most a look whether it still holds
    assert first.plan != second.plan
    assert [len(each) for each in clock.networks].count(1) == 1


def test_layers_that_seem_out_of_reach_are_tried_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Chains run faster in the network than alone: by the sum of its layers 9x could not be had, but it can."""
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    alone = 3.0
    set_clock(
        monkeypatch,
        tmp_path,
        lambda model: blocked(model) * (alone if is_one_layer(model) and len(work(model)) > 1 else 1),
    )
    result = by_time(plain_network(), speedup=3.0)
    assert result.to_dict()["speedup"]["latency"] >= 2.85


# Tables


def elsewhere(table: Path) -> Path:
    """The same table as if another machine had written it."""
    read = LatencyTable.from_json(table.read_text(), "test")
    moved = table.with_name("moved.json")
    moved.write_text(replace(read, machine=Machine("onnxruntime", "1.0", "f32", "cpu", "a board", 4, BLOCK)).to_json())
    return moved


def test_a_table_that_comes_from_elsewhere(
    clock: MadeUpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "t.json"
    here = by_time(plain_network(), latency_table=table, dry_run=True)
    moved = elsewhere(table)
    before = moved.read_bytes()
    clock.layers.clear()
    clock.networks.clear()
    there = by_time(plain_network(), latency_table=moved)
    assert there.plan == here.plan
    assert clock.layers == clock.networks == []
    assert moved.read_bytes() == before
    assert there.to_dict()["speedup"]["latency"] is None
    assert there.to_dict()["latency"] is None
    assert warnings(caplog) == []
    assert 2.0 <= blocked(plain_network()) / blocked(model_of(there)) < 2.2


def test_a_table_that_comes_from_elsewhere_and_lacks_something(clock: MadeUpClock, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    by_time(plain_network(), latency_table=table, dry_run=True, method="channel")
    with pytest.raises(BudgetError, match=r"moved\.json: measured on a board, .*lacks \d+ entries, Conv 'c0' \("):
        by_time(plain_network(), latency_table=elsewhere(table), method="spatial")
    # The layers are alike, the network is not.
    with pytest.raises(BudgetError, match=r"lacks 1 entries, the network itself"):
        by_time(plain_network(4), latency_table=elsewhere(table), method="channel")


def test_a_table_is_used_instead_of_the_clock(clock: MadeUpClock, tmp_path: Path) -> None:
    """What the table says of chains counts, whatever the clock says."""
    table = tmp_path / "t.json"
    by_time(plain_network(), latency_table=table, dry_run=True)
    read = LatencyTable.from_json(table.read_text(), "test")
    changed = {key: ms + (50 if ", spatial" in key else 0) for key, ms in read.milliseconds.items()}
    table.write_text(replace(read, milliseconds=changed).to_json())
    result = by_time(plain_network(), latency_table=table, dry_run=True)
    assert {entry.method for entry in result.plan} - {"kept"} == {"channel"}


# On the clock of this machine


def test_real_clocks_choose_ranks_too() -> None:
    """Whatever they say, the result is a network that was verified, with times of both."""
    model = plain_network(3, channels=64, size=16)
    result = by_time(model, speedup=1.2, method="channel")
    report = result.to_dict()
    assert {entry.method for entry in result.plan} != {"kept"}
    assert report["latency"]["before_ms"] > 0
    assert report["speedup"]["latency"] > 0
    assert report["verification"]["outputs"]["y"]["relative_error"] < 1
    x = images(4, 16, seed=9)
    assert relative(run(model, {"x": x})["y"], run(model_of(result), {"x": x})["y"]) < 0.5


@pytest.mark.parametrize(("version", "threads", "multiple"), [("1.29.0", 2, 4), ("1.29.0", 1, 1), ("1.32.0", 2, 1)])
def test_an_older_onnxruntime_with_several_threads_gets_whole_sets_of_blocks(
    monkeypatch: pytest.MonkeyPatch, version: str, threads: int, multiple: int
) -> None:
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: 1)
    monkeypatch.setattr("onnx_lowrank.runtime.backends.onnxruntime.version", lambda: version)
    result = converted(mobile(), method="channel", rank_multiple=None, threads=threads, speedup=1.3, dry_run=True)
    ranks = [entry.channel for entry in result.plan if entry.channel is not None]
    assert len(ranks) > 2
    assert all(rank % multiple == 0 or rank in {1, 2} for rank in ranks)
    assert multiple > 1 or any(rank % 4 for rank in ranks if rank > 4)


def planned_or_solved(model: onnx.ModelProto | Path) -> float:
    """Solved networks, which say how they were made, take a tenth longer than planned ones."""
    is_solved = isinstance(model, onnx.ModelProto) and len(model.metadata_props) > 0
    return blocked(model) * (1.1 if is_solved else 1)


@pytest.mark.parametrize("speedup", [1.6, 2.0])
def test_ranks_are_chosen_again_where_the_solved_network_misses_the_milliseconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, speedup: float
) -> None:
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    set_clock(monkeypatch, tmp_path, planned_or_solved)
    with caplog.at_level(logging.INFO):
        result = by_time(plain_network(), speedup=speedup)
    assert f"wanted {speedup:g}: ranks are chosen again, for {1.1 * speedup:.2f}" in caplog.text
    assert 0.95 * speedup <= result.to_dict()["speedup"]["latency"] <= 1.06 * speedup
    assert result.to_dict()["speedup"]["requested"] == speedup
    assert warnings(caplog) == []
    plan = [each.value for each in model_of(result).metadata_props if each.key == "onnx_lowrank.plan"]
    assert plan == [result.plan.to_json()]


def test_a_machine_that_changed_meanwhile_is_no_gap_to_make_up_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Chains get slower after ranks were chosen: planned networks do too, and what is asked for stays the same."""
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)

    def milliseconds(model: onnx.ModelProto | Path) -> float:
        same = is_one_layer(model) or len(clock.networks) < 3 or len(work(model)) == 5
        return blocked(model) * (1 if same else 1.2)

    clock = set_clock(monkeypatch, tmp_path, milliseconds)
    with caplog.at_level(logging.INFO):
        result = by_time(plain_network(), speedup=2.0)
    assert "wanted 2: ranks are chosen again, for 2.00" in caplog.text
    assert 1.95 <= result.to_dict()["speedup"]["latency"] <= 2.1


def test_a_gap_that_no_ranks_make_up_for_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: BLOCK)
    set_clock(
        monkeypatch, tmp_path, lambda model: blocked(model) * (8 if planned_or_solved(model) > blocked(model) else 1)
    )
    with caplog.at_level(logging.INFO):
        result = by_time(plain_network(), speedup=2.0, method=("channel", "spatial", "spatial-channel"))
    assert "it stays as it is: speedup 16" in caplog.text
    assert [text.partition(", because")[0] for text in warnings(caplog)] == [
        f"asked 2x in milliseconds, reached {result.to_dict()['speedup']['latency']:.2f}x"
    ]
