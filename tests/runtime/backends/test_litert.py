"""Layouts between ONNX and LiteRT; the runtime itself is tried in `test_computes_the_same` where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank.runtime.backends.fixed_shapes import FixedModel
from onnx_lowrank.runtime.backends.litert import (
    LiteRt,
    _channels_first,
    _has_two_layouts,
    _places,
    _plain_names,
    _read_by_convolutions,
)
from tests.helpers import build, filters, normal, run


@pytest.mark.parametrize(
    ("graph", "moved"),
    [
        ("g (float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, w) }", {"x"}),
        ("g (float[1,8,8,3] x) => (float[1,4,6,6] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w) }", set()),
        ("g (float[1,3,8,8] x) => (float[1,4,6,6] y, float[1,3,8,8] z) { y = Conv(x, w) z = Relu(x) }", set()),
        ("g (float[1,3,8,8] x, float[4,3,3,3] v) => (float[1,4,6,6] y) { y = Conv(x, v) }", {"x"}),
        ("g (float[1,3,8,8] x, float[1] unused) => (float[1,4,6,6] y) { y = Conv(x, w) }", {"x"}),
    ],
)
def test_channels_of_inputs_move_where_convolutions_alone_read_them(graph: str, moved: set[str]) -> None:
    assert _read_by_convolutions(build(graph, {"w": filters(0, 4, 3, 3, 3)}).graph) == moved


def fixed(shape: tuple[int, ...] | None) -> FixedModel:
    return FixedModel("model", Path("model.onnx"), {}, {"y": shape})


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (2, 8, 12), (1, 3, 5, 6, 7)])
def test_channels_that_are_last_move_back(shape: tuple[int, ...]) -> None:
    wanted = normal(0, *shape)
    for values in (wanted, np.moveaxis(wanted, 1, -1)):
        np.testing.assert_array_equal(_channels_first(values, fixed(shape), "y", None), wanted)


@pytest.mark.parametrize("shape", [(1, 10), (1, 40, 6625), (4,), ()])
def test_other_outputs_stay(shape: tuple[int, ...]) -> None:
    wanted = normal(0, *shape)
    np.testing.assert_array_equal(_channels_first(wanted, fixed(shape), "y", None), wanted)


def test_where_the_shape_does_not_tell_the_values_do() -> None:
    wanted = normal(0, 1, 6, 6, 6)
    assert _has_two_layouts(wanted, wanted.shape)
    for values in (wanted, np.moveaxis(wanted, 1, -1)):
        found = _channels_first(values, fixed(wanted.shape), "y", wanted + 0.01 * normal(1, 1, 6, 6, 6))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (1, 1, 1, 1), (6, 6), (1, 6, 6, 5)])
def test_where_the_shape_tells(shape: tuple[int, ...]) -> None:
    assert not _has_two_layouts(normal(0, *shape), shape)


def test_names_become_plain_and_the_network_stays_the_same() -> None:
    model = build(
        "g (float[1,4] x, bool[1] c) => (float[1,4] y, float[1,4] x2) { y = If(c)<then_branch = t () => (float[1,4] a) "
        "{ a = Relu(x) }, else_branch = e () => (float[1,4] b) { b = Neg(x) }> x2 = Add(x, y) }"
    )
    model.graph.node[0].name = "If@0"
    x = normal(0, 1, 4)
    renamed = type(model)()
    renamed.CopyFrom(model)
    names = _plain_names(renamed.graph)
    assert names == {"x": "input_0", "c": "input_1", "y": "output_0", "x2": "output_1"}
    assert [node.name for node in renamed.graph.node] == ["node_0", "node_1"]
    for condition in (True, False):
        wanted = run(model, {"x": x, "c": np.array([condition])})
        found = run(renamed, {"input_0": x, "input_1": np.array([condition])})
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[names[name]], values)


class Nameless:
    """A converted network without signatures."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs, self.outputs = inputs, outputs

    def get_signature_list(self) -> dict[str, object]:
        return {}

    def get_input_details(self) -> list[dict[str, int]]:
        return [{"index": number} for number in range(self.inputs)]

    def get_output_details(self) -> list[dict[str, int]]:
        return [{"index": 10 + number} for number in range(self.outputs)]


def test_one_input_and_one_output_need_no_names() -> None:
    found = _places(Nameless(1, 1), ["input_0", "output_0"])
    assert found == ({"input_0": {"index": 0}}, {"output_0": {"index": 10}})


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (1, 2)])
def test_several_without_names_are_an_error(inputs: int, outputs: int) -> None:
    with pytest.raises(
        ValueError, match="has left out the names of its inputs and outputs, of which there are several"
    ):
        _places(Nameless(inputs, outputs), ["input_0", "output_0", "another"])


def test_onnx2tf_does_not_get_the_modules_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its own Python, which cannot load what was compiled for this one."""
    monkeypatch.setenv("PYTHONPATH", "of another Python")
    program = tmp_path / "onnx2tf"
    program.write_text(f"""#!{sys.executable}
import os
if not {{"PYTHONPATH", "PYTHONHOME"}} & os.environ.keys():
    open("model_float32.tflite", "w").close()
""")
    program.chmod(0o755)
    (tmp_path / "out").mkdir()
    model = build("g (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Relu(x) }", {})
    LiteRt(None, "2", str(program), 1).prepare(model, {"x": np.zeros((1, 3, 4, 4), np.float32)}, tmp_path / "out")
    assert (tmp_path / "out/model_float32.tflite").is_file()
