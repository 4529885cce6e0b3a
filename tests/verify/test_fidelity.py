"""Results that nobody would use: what is said of them, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_lowrank import RankPlan, Settings, convert, sweep
from onnx_lowrank.errors import BudgetError, VerificationError
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.verify import Comparison, OutputFidelity
from onnx_lowrank.verify.fidelity import check_bounds, fidelity_warnings, is_close, limits
from tests.helpers import build, filters
from tests.networks import images, network

QUICK: dict[str, Any] = {"bench": False, "rank_multiple": 1, "threads": 1, "provider": "cpu"}
POOR = RankPlan(tuple(LayerPlan(name, "channel", 1) for name in ("c1", "c2", "c3")))


def of(error: float, agreement: float | None = None) -> OutputFidelity:
    return OutputFidelity(error, 0.9, agreement)


def maps() -> Any:
    """A network that scores no classes."""
    text = """g (float[N,3,12,12] x) => (float[N,8,12,12] y) {
        c1 = Conv<pads=[1,1,1,1]>(x, w1)  r1 = Relu(c1)  y = Conv<pads=[1,1,1,1]>(r1, w2) }"""
    return build(text, {"w1": filters(0, 16, 3, 3, 3), "w2": filters(1, 8, 16, 3, 3)})


@pytest.mark.parametrize(
    ("fidelity", "max_drop", "close"),
    [
        (of(0.9, 0.95), None, True),  # classes count where they are scored
        (of(0.01, 0.949), None, False),
        (of(0.7116, 0.63), None, False),
        (of(0.3), None, True),
        (of(0.301), None, False),
        (of(np.inf), None, False),
        (of(np.inf, 1.0), None, True),
        (of(0.1, 0.9), 0.1, True),  # as was asked for
        (of(0.1, 0.89), 0.1, False),
        (of(0.1, 0.96), 0.01, True),
        (of(0.4), 0.4, True),
    ],
)
def test_what_is_close(fidelity: OutputFidelity, max_drop: float | None, close: bool) -> None:
    assert is_close(fidelity.to_dict(), max_drop) is close
    comparison = Comparison({"y": fidelity}, None, 8)
    assert (fidelity_warnings(comparison, "8 samples", max_drop) == ()) is close


def test_every_output_that_is_not_close_is_named_with_what_to_do() -> None:
    outputs = {"prob": of(0.7116, 0.63), "fine": of(0.1), "boxes": of(0.5), "endless": of(np.inf)}
    first, second, third = fidelity_warnings(Comparison(outputs, None, 8), "8 held-out samples")
    assert {first.code, second.code, third.code} == {"not-close"}
    first_text, second_text, third_text = (each.text for each in (first, second, third))
    assert first_text == (
        "output 'prob' is not close to the original: same top class on only 63.0% of 8 held-out samples, 95% is "
        "the least to expect: convert with less speedup, another method or more samples, or fine-tune the result"
    )
    assert (
        "'boxes' is not close to the original: relative error 0.5 on 8 held-out samples, 0.3 is the most" in second_text
    )
    assert "'endless' is not close to the original: relative error infinite on" in third_text


@pytest.mark.parametrize("model", [network(), maps()])
def test_a_conversion_warns_where_it_says_so_in_the_report(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    data = images(60)
    names = ["c1", "c2", "c3"] if len(model.graph.node) > 3 else ["c1", "y"]
    plan = RankPlan(tuple(LayerPlan(name, "channel", 1) for name in names))
    poor = convert(model, {"x": data}, plan=plan, solver="weights", **QUICK)
    name = model.graph.output[0].name
    (warning,) = poor.report.warnings
    assert warning.text.startswith(f"output '{name}' is not close to the original: ")
    assert poor.to_dict()["warnings"] == [{"code": "not-close", "text": warning.text}]
    assert poor.to_dict()["passed"] is False
    assert warning.text in caplog.text
    caplog.clear()
    full = RankPlan(tuple(LayerPlan(each, "channel", 8 if each == "y" else 16) for each in names))
    good = convert(model, {"x": data}, plan=full, **QUICK)
    assert good.report.warnings == ()
    assert (good.to_dict()["warnings"], good.to_dict()["passed"]) == ([], True)
    assert "not close" not in caplog.text
    planned = convert(model, {"x": data}, plan=plan, dry_run=True, **QUICK)
    assert (planned.report.warnings, planned.to_dict()["passed"]) == ((), None)  # nothing was verified


@pytest.mark.parametrize(
    ("changes", "warn", "refuse"),
    [
        ({}, (0.95, 0.3), (None, 1.0)),
        ({"max_drop": 0.1}, (0.9, 0.3), (None, 1.0)),
        ({"max_drop": 0.4}, (0.6, 0.4), (None, 1.0)),
        ({"min_agreement": 0.97, "max_error": 0.2}, (0.95, 0.3), (0.97, 0.2)),
        ({"max_error": 50.0}, (0.95, 0.3), (None, 1.0)),
    ],
)
def test_the_limits_that_results_are_judged_by(changes: Any, warn: tuple[float, ...], refuse: tuple[Any, ...]) -> None:
    found = limits(Settings(**changes))
    assert tuple(found["warn"].values()) == pytest.approx(warn, rel=1e-12, abs=0)
    assert tuple(found["refuse"].values()) == refuse
    assert [list(each) for each in found.values()] == 2 * [["agreement", "relative_error"]]


def test_the_report_has_the_limits() -> None:
    found = convert(maps(), {"x": images()}, speedup=1.5, max_error=0.9, **QUICK).to_dict()
    assert found["limits"] == limits(Settings(max_error=0.9))


def test_bounds_refuse_what_is_outside_of_them(tmp_path: Any) -> None:
    out = tmp_path / "out.onnx"
    message = (
        r"output 'scores': same top class on 0\.\d+ of 12 held-out samples, at least 0.95 is wanted by "
        "`min_agreement`: raise the ranks of the plan, allow another `method` or add samples; nothing was written"
    )
    with pytest.raises(VerificationError, match=message):
        convert(network(), {"x": images()}, plan=POOR, solver="weights", min_agreement=0.95, output=out, **QUICK)
    with pytest.raises(
        VerificationError, match=r"output 'scores': relative error 0\.\d+ on 12 .* at most 0.05 is want"
    ):
        convert(network(), {"x": images()}, plan=POOR, solver="weights", max_error=0.05, output=out, **QUICK)
    assert list(tmp_path.iterdir()) == []
    convert(
        network(), {"x": images()}, plan=POOR, solver="weights", max_error=0.99, min_agreement=0, output=out, **QUICK
    )
    assert out.exists()


def test_bounds_hold_at_their_ends_and_for_every_output() -> None:
    comparison = Comparison({"a": of(0.2, 0.9), "b": of(0.3)}, None, 10)
    check_bounds(comparison, Settings(min_agreement=0.9, max_error=0.3))
    with pytest.raises(VerificationError, match="'a': same top class on 0.9 of 10 .*: lower `speedup`, allow"):
        check_bounds(comparison, Settings(min_agreement=0.91))
    with pytest.raises(VerificationError, match="'b': relative error 0.3 .*: lower `max_drop`, allow"):
        check_bounds(comparison, Settings(max_error=0.29, max_drop=0.1))
    with pytest.raises(VerificationError, match="'b': relative error inf"):
        check_bounds(Comparison({"b": of(np.inf)}, None, 10), Settings(max_error=100))


def test_a_share_of_classes_needs_an_output_that_scores_some() -> None:
    with pytest.raises(
        BudgetError, match=r"`min_agreement`: no output scores classes \(y\), .*: set `max_error` instead"
    ):
        convert(maps(), {"x": images()}, speedup=1.5, min_agreement=0.5, **QUICK)


@pytest.mark.parametrize("value", [-0.1, 1.01, np.nan, np.inf])
def test_shares_that_are_none(value: float) -> None:
    with pytest.raises(BudgetError, match=r"`min_agreement`: got .*, wanted a share from 0 to 1"):
        Settings(min_agreement=value)
    assert Settings(min_agreement=1).min_agreement == 1


@pytest.mark.parametrize("value", [-0.1, 0, np.nan, np.inf])
def test_errors_that_are_none(value: float) -> None:
    with pytest.raises(BudgetError, match=r"`max_error`: got .*, wanted a number above 0"):
        Settings(max_error=value)


def test_points_of_a_sweep_that_nobody_would_want(caplog: pytest.LogCaptureFixture) -> None:
    found = sweep(maps(), {"x": images()}, [1.1, 6], refine="none", **QUICK)
    good, poor = found.report.points
    assert good.warnings == ()
    (warning,) = poor.warnings
    assert f"target 6x: {warning.text}" in caplog.text
    points = found.to_dict()["points"]
    assert [point["warnings"] for point in points] == [[], [{"code": "not-close", "text": warning.text}]]
    assert [point["passed"] for point in points] == [True, False]
    assert found.to_dict()["limits"] == limits(Settings())
    refused = sweep(maps(), {"x": images()}, [1.1, 6], refine="none", max_error=0.3, **QUICK)
    assert [point.error is None for point in refused.report.points] == [True, False]
    assert [point["passed"] for point in refused.to_dict()["points"]] == [True, False]
