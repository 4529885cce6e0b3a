"""What a speedup is predicted to lose: against made-up losses, and against what conversions then lose."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest

from onnx_lowrank import Settings, convert, pipeline
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.ranks.estimate import (
    COMMON_SPEEDUPS,
    LossEstimate,
    estimate_losses,
    largest_within,
    log_prediction,
    predicted_error,
)
from tests.helpers import plain_network
from tests.networks import images

HOW: dict[str, Any] = {"bench": False, "provider": "cpu", "threads": 1, "rank_multiple": 4}


def chooser(losses: Callable[[float], float], largest: float = 100.0) -> Callable[[Settings], RankPlan]:
    """Two layers that lose three and four fifths of a predicted error."""

    def choose(settings: Settings) -> RankPlan:
        assert not settings.bench  # a prediction measures nothing
        assert settings.cost in {"macs", "params"}
        if settings.speedup > largest:
            raise BudgetError(f"speedup {settings.speedup:g} cannot be reached")
        error = losses(settings.speedup)
        entries = [LayerPlan(name, energy=1 - (part * error) ** 2) for name, part in (("a", 0.6), ("b", 0.8))]
        return RankPlan((*entries, LayerPlan("kept")))

    return choose


def test_errors_of_layers_add_up_as_squares() -> None:
    plan = RankPlan((LayerPlan("a", energy=1 - 0.09), LayerPlan("b", energy=1 - 0.16), LayerPlan("c")))
    assert predicted_error(plan) == pytest.approx(0.5, rel=1e-12, abs=0)


def test_common_speedups_with_the_layer_that_loses_most() -> None:
    found = estimate_losses(chooser(lambda speedup: (speedup - 1) / 4, largest=3.5), Settings(cost="latency"))
    assert [each.speedup for each in found] == list(COMMON_SPEEDUPS) == [1.2, 1.5, 2, 3, 4]
    assert [each.error for each in found[:4]] == pytest.approx([0.05, 0.125, 0.25, 0.5], rel=1e-9, abs=0)
    assert [each.verdict for each in found] == ["little", "little", "little", "some", "out of reach"]
    assert found[3].worst_layer == "b"
    assert found[3].worst_error == pytest.approx(0.4, rel=1e-9, abs=0)
    assert found[4].to_dict() == {
        **{"speedup": 4.0, "predicted_error": None, "verdict": "out of reach"},
        **{"worst_layer": None, "worst_error": 0.0},
    }
    assert LossEstimate(2, 0.51).verdict == "much"


def test_nothing_is_predicted_from_energies_or_beside_a_plan() -> None:
    assert estimate_losses(chooser(lambda _: 0.1), Settings(plan=RankPlan(()))) == ()
    assert estimate_losses(chooser(lambda _: 0.1), Settings(selection="energy", method="channel")) == ()


@pytest.mark.parametrize(("limit", "picked"), [(1.06, 1.06), (1.3, 1.3), (2.5, 2.5), (3.99, 3.99), (7.0, 4.0)])
def test_the_largest_speedup_within_an_error(limit: float, picked: float) -> None:
    choose = chooser(lambda speedup: 0.25 * (speedup - 1) / (limit - 1))
    found = largest_within(choose, Settings(), 0.25)
    assert picked / 1.02 <= found <= picked
    assert predicted_error(choose(Settings(speedup=found, bench=False))) <= 0.25 * (1 + 1e-9)


def test_out_of_reach_is_too_much() -> None:
    assert 2.0 / 1.02 <= largest_within(chooser(lambda _: 0.1, largest=2.0), Settings(), 0.25) <= 2.0


def test_where_even_the_smallest_loses_much_it_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert largest_within(chooser(lambda _: 0.5), Settings(), 0.25) == 1.05
    assert "even a speedup of 1.05 is predicted to lose much: an error of 0.5, 0.25 is wanted at most" in caplog.text


def test_a_prediction_beyond_zeros_is_a_warning_that_names_what_loses_less(caplog: pytest.LogCaptureFixture) -> None:
    choose = chooser(lambda speedup: (speedup - 1) / 4)
    settings = Settings(speedup=6, bench=False)
    log_prediction(choose, choose(settings), settings)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    text, _, found = warning.partition("`speedup=")
    assert text == "predicted error 1.2, and zeros would have 1: the result may be refused in the end: "
    number, _, rest = found.partition("`")
    assert 3.0 / 1.02 <= float(number) <= 3.0
    assert rest == " is the largest with at most 0.5"


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [({"cost": "latency"}, ": lower `speedup`"), ({"plan": RankPlan(())}, ": raise the ranks of the plan")],
)
def test_other_targets_have_other_remedies(
    caplog: pytest.LogCaptureFixture, changes: dict[str, Any], remedy: str
) -> None:
    plan = chooser(lambda _: 1.3)(Settings(bench=False))
    log_prediction(chooser(lambda _: 1.3), plan, Settings(speedup=6, **changes))
    assert caplog.records[-1].getMessage().endswith(f"the result may be refused in the end{remedy}")


def test_a_prediction_that_is_no_more_than_zeros_is_none(caplog: pytest.LogCaptureFixture) -> None:
    choose = chooser(lambda _: 0.99)
    log_prediction(choose, choose(Settings(bench=False)), Settings(speedup=6))
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_warning_comes_before_anything_is_solved(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve_network(*_: object, **__: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(pipeline, "solve_network", solve_network)
    with pytest.raises(InterruptedError):
        convert(plain_network(), {"x": images(80, 8)}, speedup=20, **HOW)
    assert "and zeros would have 1: the result may be refused in the end: `speedup=" in caplog.text


def test_where_nothing_can_be_reached_there_is_an_error() -> None:
    with pytest.raises(BudgetError, match=r"speedup 1\.05 cannot be reached"):
        largest_within(chooser(lambda _: 0.1, largest=1.01), Settings(), 0.25)


def test_a_dry_run_predicts_what_a_conversion_loses_at_most() -> None:
    model, data = plain_network(), {"x": images(80, 8)}
    planned = convert(model, data, speedup=2, dry_run=True, **HOW)
    estimates = {each.speedup: each for each in planned.report.estimates}
    assert list(estimates) == list(COMMON_SPEEDUPS)
    assert planned.report.predicted_error == estimates[2].error
    found = planned.to_dict()["estimates"]
    assert found == [each.to_dict() for each in estimates.values()]
    for speedup in (1.5, 3):
        converted = convert(model, data, speedup=speedup, **HOW)
        assert converted.report.verification is not None
        lost = converted.report.verification["outputs"]["y"]["relative_error"]
        predicted = estimates[speedup].error
        assert predicted is not None
        assert 0.05 * predicted < lost < 1.1 * predicted
        assert converted.report.predicted_error == predicted
        assert converted.report.estimates == ()


def test_a_speedup_is_picked_in_python_where_an_error_is_given() -> None:
    model, data = plain_network(), {"x": images(80, 8)}
    assert Settings().speedup == 4  # what scripts rely on, unless they ask for a prediction
    result = convert(model, data, predicted_error=0.2, **HOW)
    assert result.report.requested is not None
    assert 1.05 < result.report.requested < 4
    assert result.report.predicted_error is not None
    assert 0.15 < result.report.predicted_error <= 0.2
    alone = convert(model, data, speedup=result.report.requested, **HOW)
    assert alone.plan == result.plan
    capped = convert(model, data, predicted_error=0.2, speedup=1.1, **HOW)
    assert capped.report.requested == 1.1


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_errors_that_are_none(value: float) -> None:
    with pytest.raises(BudgetError, match=r"predicted_error: got .*, wanted a number above 0: try predicted_error="):
        Settings(predicted_error=value)


@pytest.mark.parametrize("changes", [{"max_drop": 0.1}, {"plan": RankPlan(())}])
def test_one_target_only(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="predicted_error picks a speedup, which plan and max_drop do too"):
        Settings(predicted_error=0.2, **changes)


def test_squares_are_those_of_all_layers() -> None:
    assert predicted_error(chooser(lambda _: 0.3)(Settings(bench=False))) == pytest.approx(sqrt(0.09), rel=1e-9, abs=0)
