"""How far outputs are from onnxruntime's, and when that is worth a warning."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.agreement import differences, disagreement, outputs_in
from onnx_lowrank.runtime.backends import RuntimeFacts

F32, BF16 = RuntimeFacts("ncnn", "7.0", "f32", 1), RuntimeFacts("openvino", "2026.4", "bf16", 1)


@pytest.mark.parametrize(
    ("wanted", "found", "difference"),
    [
        ([3.0, 4.0], [3.0, 4.5], 0.1),
        ([3.0, inf], [3.3, inf], 0.1),
        ([3.0, nan], [3.0, nan], 0.0),
        ([3.0, 4.0], [3.0, nan], inf),
        ([3.0, 4.0], [3.0, inf], inf),
        ([3.0, inf], [3.0, -inf], inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-4], 0.5**0.5),  # outputs of no size relate to 1e-4
        ([0.0, 2e-8], [1e-7, 0.0], 7.2e-4),  # rounding of a sigmoid
        ([1, 0, 7], [1, 0, 7], 0.0),
        ([True, False], [1, 0], 0.0),
        ([3.0, 4.0], [[3.0, 4.0]], inf),  # another shape
    ],
)
def test_relative_differences(wanted: Any, found: Any, difference: float) -> None:
    assert differences({"y": np.array(wanted)}, {"y": np.array(found)})["y"] == pytest.approx(difference, rel=0.01)


def test_an_output_that_is_missing() -> None:
    assert differences({"y": np.ones(2), "z": np.ones(2)}, {"y": np.ones(2)}) == {"y": 0.0, "z": inf}


NAMES = ("a.onnx", "b.onnx")


def test_networks_that_agree() -> None:
    assert disagreement(F32, NAMES, [{"y": 9e-3}, {"y": 9e-3}]) == []


def test_a_network_that_computes_something_else() -> None:
    assert disagreement(F32, NAMES, [{"y": 1e-6}, {"y": 0.5, "z": 1e-3}]) == [
        "b.onnx: in ncnn 7.0, output 'y' differs by 50 %, compared with onnxruntime (up to 1 % is usual in f32): do "
        "not deploy it there unchecked; another release of ncnn or of its converter may help"
    ]


@pytest.mark.parametrize(("own", "warned"), [(0.14, 0), (0.16, 1)])
def test_what_the_original_differs_by_is_no_fault_of_the_converted_one(own: float, warned: int) -> None:
    assert len(disagreement(BF16, NAMES, [{"y": 0.05}, {"y": own}])) == warned


def test_the_original_is_warned_of_too() -> None:
    assert disagreement(BF16, NAMES, [{"y": 0.3}, {"y": 0.3}]) == [
        "a.onnx: in openvino 2026.4, output 'y' differs by 30 %, compared with onnxruntime (up to 10 % is usual in "
        "bf16): try it in float32, `runtime='openvino:f32'`, or compare accuracy there"
    ]


def test_one_that_does_not_run_is_compared_with_nothing() -> None:
    assert len(disagreement(F32, NAMES, [{}, {"y": 0.3}])) == 1


def test_other_shapes_in_words() -> None:
    (warning,) = disagreement(F32, NAMES[:1], [{"y": inf}])
    assert warning.startswith("a.onnx: in ncnn 7.0, output 'y' has another shape, or no finite numbers, compared with")


class Failing:
    """A network that prints why it fails, as libraries do, past Python."""

    closed = False

    def open(self) -> Any:
        return self

    def run(self) -> None:
        import os

        os.write(1, b"layer 7:\n  bad shape\n")
        raise ModelError("model: it cannot run")

    def close(self) -> None:
        self.closed = True


def test_what_a_runtime_prints_is_in_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    network = Failing()
    with pytest.raises(ModelError, match="^model: it cannot run; it says: layer 7: bad shape$"):
        outputs_in(network)
    assert network.closed
    assert capfd.readouterr().out == ""
