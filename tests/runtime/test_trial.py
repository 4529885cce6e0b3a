"""Networks tried in another runtime: converted, compared, timed in turns."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.timing import Pace
from onnx_lowrank.runtime.trial import try_out
from tests.helpers import CPU, Feeds, build, filters, normal
from tests.stand_in_runtime import StandIn

PACE = Pace(rounds=2, repeats=3, seconds=0)


def network(seed: int) -> onnx.ModelProto:
    return build("g (float[N,3,6,6] x) => (float[N,4,4,4] y) { y = Conv(x, w) }", {"w": filters(seed, 4, 3, 3, 3)})


FEEDS = {"x": normal(1, 2, 3, 6, 6)}


def test_all_are_compared_and_timed_in_turns() -> None:
    def spoil(number: int, outputs: Feeds) -> Feeds:
        return {name: values * (1 + number / 4) for name, values in outputs.items()}

    runtime = StandIn(spoil)
    found = try_out([network(0), network(1)], [FEEDS] * 2, runtime, CPU, PACE)
    assert [each.error for each in found] == [None, None]
    assert found[0].differences["y"] == 0
    assert found[1].differences["y"] == pytest.approx(0.25)
    assert [[len(runs) for runs in each.timing.rounds] for each in found if each.timing] == [[3, 3], [3, 3]]
    turns = ["open 0", "close 0", "open 1", "close 1"]
    assert runtime.log == turns * 3  # once to compare, twice to time
    assert len(set(runtime.folders)) == 2
    assert not any(folder.exists() for folder in runtime.folders)


def test_one_that_cannot_be_converted_does_not_stop_the_others() -> None:
    found = try_out([network(0), network(1), network(2)], [FEEDS] * 3, StandIn(unable=[1]), CPU, PACE)
    assert [each.error for each in found] == [None, "model: pnnx cannot convert it for ncnn: no layer 1", None]
    assert [each.timing is None for each in found] == [False, True, False]


def test_without_a_pace_nothing_is_timed() -> None:
    (found,) = try_out([network(0)], [FEEDS], StandIn(), CPU)
    assert found.timing is None
    assert found.differences == {"y": 0.0}


def test_what_onnxruntime_cannot_run_is_an_error() -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        try_out([network(0)], [{"x": np.zeros((1, 4, 6, 6), np.float32)}], StandIn(), CPU)


def test_folders_vanish_where_it_fails() -> None:
    runtime = StandIn()
    with pytest.raises(ValueError, match="shorter"):
        try_out([network(0), network(1)], [FEEDS], runtime, CPU)
    assert runtime.folders
    assert not any(folder.exists() for folder in runtime.folders)
