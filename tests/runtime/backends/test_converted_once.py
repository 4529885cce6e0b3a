"""A runtime that converts one network once."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends.converted_once import ConvertedOnce
from onnx_lowrank.runtime.backends.protocol import RuntimeFacts
from onnx_lowrank.runtime.timing import Pace, time_in_turns
from tests.helpers import build, filters, normal
from tests.stand_in_runtime import StandIn

KEPT, OTHER = (
    build("g (float[N,3,6,6] x) => (float[N,4,4,4] y) { y = Conv(x, w) }", {"w": filters(seed, 4, 3, 3, 3)})
    for seed in (0, 1)
)
ONE, TWO = {"x": normal(0, 1, 3, 6, 6)}, {"x": normal(0, 2, 3, 6, 6)}
PACE = Pace(rounds=1, repeats=1, seconds=0)


def test_one_network_is_converted_once_and_others_every_time() -> None:
    inner = StandIn()
    runtime = ConvertedOnce(inner, KEPT)
    for _ in range(2):
        assert len(time_in_turns([KEPT, OTHER], [ONE, ONE], runtime, PACE)) == 2
    assert len(inner.folders) == 3
    assert [folder.exists() for folder in inner.folders] == [True, False, False]
    runtime.close()
    assert not inner.folders[0].exists()


def test_it_computes_what_the_runtime_does(tmp_path: Path) -> None:
    outputs = []
    for runtime in (StandIn(), ConvertedOnce(StandIn(), KEPT)):
        running = runtime.prepare(KEPT, ONE, tmp_path).open()
        running.run()
        outputs.append(running.outputs()["y"])
    assert (outputs[0] == outputs[1]).all()


def test_inputs_of_other_shapes_are_another_network() -> None:
    inner = StandIn()
    runtime = ConvertedOnce(inner, KEPT)
    for feeds in (ONE, TWO, ONE, TWO):
        time_in_turns([KEPT], [feeds], runtime, PACE)
    assert len(inner.folders) == 2
    runtime.close()
    assert not any(folder.exists() for folder in inner.folders)


def test_one_that_cannot_be_converted_is_an_error_every_time() -> None:
    runtime = ConvertedOnce(StandIn(unable=[0, 1]), KEPT)
    for number in (0, 1):
        with pytest.raises(ModelError, match=f"no layer {number}"):
            time_in_turns([KEPT], [ONE], runtime, PACE)


def test_a_report_names_the_runtime_itself() -> None:
    inner = StandIn(threads=3, runs_parts=True)
    runtime = ConvertedOnce(inner, KEPT)
    assert RuntimeFacts.of(runtime) == RuntimeFacts.of(inner)
    assert runtime.runs_parts
