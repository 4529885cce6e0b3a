"""The final measurement of a conversion in another runtime than onnxruntime: its facts and its warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_lowrank import Pace, convert, sweep
from onnx_lowrank.pipeline import conversion_timer
from onnx_lowrank.report.markdown import to_markdown
from onnx_lowrank.report.result import Result
from onnx_lowrank.runtime.latency import ConversionTimer
from onnx_lowrank.runtime.timing import Timing
from tests.helpers import Feeds, plain_network
from tests.networks import images
from tests.stand_in_runtime import StandIn

HOW = {"speedup": 2, "samples": 20, "provider": "cpu", "threads": 1, "refine": "none", "solver": "weights"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A clock that shows the same for every network: none gets faster. It notes the names of what is timed."""
    seen: list[str] = []

    def timed(models: Sequence[Any], _feeds: Any, _runtime: Any, pace: Pace) -> list[Timing]:
        seen.extend(model.graph.name for model in models)
        return [Timing(((2.0,),) * pace.rounds)] * len(models)

    for module in ("runtime.layer_latency", "runtime.latency"):
        monkeypatch.setattr(f"onnx_lowrank.{module}.time_in_turns", timed)
    return seen


def converted(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, **changes: Any) -> Result:
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.open_runtime", lambda name, _: replace(stand_in, name=name))
    return convert(plain_network(), images(24, 8), **{**HOW, "runtime": "ncnn", **changes})


def warnings(result: Result) -> dict[str, str]:
    return {warning.code: warning.text for warning in result.report.warnings}


def test_the_report_names_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    report = converted(monkeypatch, StandIn()).report
    facts = report.to_dict()
    assert facts["runtime"] == {"name": "ncnn", "version": "7.0", "precision": "f32", "threads": 1}
    assert "runtime" not in facts["latency"]
    assert "| latency, batch 1, 1 thread, ncnn 7.0 |" in to_markdown(report)


def test_without_a_measurement_there_is_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    assert converted(monkeypatch, StandIn(), bench=False).report.to_dict()["runtime"] is None


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ncnn", "`method='channel'` keeps square kernels, which it runs by Winograd's algorithm, `cost='latency'`"),
        ("openvino", ": `cost='latency'` spends milliseconds measured there"),
    ],
)
def test_a_network_that_is_not_faster_there(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch, clock: list[str]
) -> None:
    text = warnings(converted(monkeypatch, StandIn(), runtime=name))["slow"]
    assert text.startswith(f"measured speedup 1.00 in {name}, where multiply-adds promise 2.")
    assert remedy in text
    assert "layer" not in clock  # single layers are not timed: every one would have to be converted


def test_a_network_that_computes_something_else_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(number: int, outputs: Feeds) -> Feeds:
        return {name: values + (number % 2) for name, values in outputs.items()}

    result = converted(monkeypatch, StandIn(spoil))
    text = warnings(result)["runtime"]
    assert text.startswith("the converted network: in ncnn 7.0, output 'y' differs by ")
    assert result.report.passed is False


def test_a_network_that_does_not_run_there_is_written_nonetheless(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has taken long to make, and may run in the next release."""
    result = converted(monkeypatch, StandIn(unable=[1]), output=tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").is_file()
    assert result.report.latency is None
    assert warnings(result)["slow"] == "not measured in ncnn: model: pnnx cannot convert it for ncnn: no layer 1"


def test_the_original_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, timers = StandIn(), list[ConversionTimer]()

    def kept(*arguments: Any) -> ConversionTimer:
        timers.append(conversion_timer(*arguments))
        return timers[-1]

    monkeypatch.setattr("onnx_lowrank.pipeline.conversion_timer", kept)  # files must go before the timer does
    converted(monkeypatch, stand_in)
    assert len(timers) == 1
    assert len(stand_in.folders) == 1 + 2  # the result twice, to compare and to time it
    assert not any(folder.exists() for folder in stand_in.folders)


def test_runtimes_that_are_none() -> None:
    wrong: Any = "tvm"
    with pytest.raises(ValueError, match="runtime must be one of onnxruntime, openvino, .*, got 'tvm'"):
        convert(onnx.ModelProto(), runtime=wrong)


def test_every_point_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(number: int, outputs: Feeds) -> Feeds:
        return {name: values * (3 if number == 2 else 1) for name, values in outputs.items()}

    runtime = StandIn(spoil)
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.open_runtime", lambda *_: runtime)
    how = {name: value for name, value in HOW.items() if name != "speedup"}
    found = sweep(plain_network(), images(24, 8), (1.5, 2), runtime="ncnn", **how)
    assert found.report.to_dict()["runtime"]["name"] == "ncnn"
    codes = [[warning.code for warning in point.warnings] for point in found.report.points]
    assert ["runtime" in each for each in codes] == [False, True]


def test_a_sweep_in_a_runtime_that_cannot(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.open_runtime", lambda *_: StandIn(unable=[0]))
    how = {name: value for name, value in HOW.items() if name != "speedup"}
    found = sweep(plain_network(), images(24, 8), (1.5,), runtime="ncnn", **how)
    assert found.report.to_dict()["runtime"] is None
    assert "not measured in ncnn: model: pnnx cannot convert it for ncnn: no layer 0" in caplog.text
