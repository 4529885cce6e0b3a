"""Models with the shapes of what they are fed, as converters want them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_lowrank.runtime.backends.fixed_shapes import FixedModel, write_fixed
from tests.helpers import Array, build, filters, normal, run

CONV = "{ a = Conv<pads=[1,1,1,1]>(x, w) y = Relu(a) }"
WEIGHTS = {"w": filters(0, 4, 3, 3, 3)}


def shapes(values: object) -> dict[str, list[int | str]]:
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in values  # type: ignore[attr-defined]
    }


def written(model: onnx.ModelProto, feeds: dict[str, Array], folder: Path) -> tuple[FixedModel, onnx.ModelProto]:
    before = model.SerializeToString()
    fixed = write_fixed(model, feeds, folder)
    assert model.SerializeToString() == before
    loaded = onnx.load(fixed.file)
    onnx.checker.check_model(loaded, full_check=True)
    return fixed, loaded


def test_open_axes_get_their_sizes(tmp_path: Path) -> None:
    model = build(f"g (float[N,3,H,W] x) => (float[N,4,H,W] y) {CONV}", WEIGHTS)
    feeds = {"x": normal(1, 2, 3, 5, 7)}
    fixed, loaded = written(model, feeds, tmp_path)
    assert shapes(loaded.graph.input) == {"x": [2, 3, 5, 7]}
    assert shapes(loaded.graph.output) == {"y": [2, 4, 5, 7]}
    assert fixed.output_shapes == {"y": (2, 4, 5, 7)}
    np.testing.assert_array_equal(run(loaded, feeds)["y"], run(model, feeds)["y"])


@pytest.mark.parametrize("size", ["?", "-1"])
def test_one_word_for_two_axes_of_different_size(size: str, tmp_path: Path) -> None:
    """Paddle's networks call all open axes alike, or give them the size -1."""
    model = build("g (float[1,3,1,1] x) => (float[1,4,1,1] y) " + CONV, WEIGHTS)
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim[2:]:
            if size == "?":
                dimension.dim_param = size
            else:
                dimension.dim_value = int(size)
    _, loaded = written(model, {"x": normal(1, 1, 3, 5, 7)}, tmp_path)
    assert shapes(loaded.graph.output) == {"y": [1, 4, 5, 7]}


def test_shapes_inside_are_no_longer_those_of_another_size(tmp_path: Path) -> None:
    model = build(f"g (float[N,3,8,8] x) => (float[N,4,8,8] y) {CONV}", WEIGHTS)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 4, 8, 8]))
    written(model, {"x": normal(1, 2, 3, 8, 8)}, tmp_path)


def test_initializers_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = build("g (float[1,3,8,8] x) => (float[1,4,8,8] y) " + CONV, WEIGHTS, opset=8, ir=3)
    assert len(model.graph.input) == 2
    fixed, loaded = written(model, {"x": normal(1, 1, 3, 8, 8)}, tmp_path)
    assert list(fixed.feeds) == ["x"]
    assert shapes(loaded.graph.input) == {"x": [1, 3, 8, 8]}


def test_feeds_come_in_the_order_of_the_graph(tmp_path: Path) -> None:
    model = build("g (float[2] b, float[2] a) => (float[2] y) { y = Sub(b, a) }")
    fixed, _ = written(model, {"a": normal(0, 2), "b": normal(1, 2)}, tmp_path)
    assert list(fixed.feeds) == ["b", "a"]


def test_a_size_that_depends_on_values_is_not_known(tmp_path: Path) -> None:
    model = build("g (float[1,4] x) => (int64[2,M] y) { y = NonZero(x) }")
    fixed, _ = written(model, {"x": np.ones((1, 4), np.float32)}, tmp_path)
    assert fixed.output_shapes == {"y": None}
    values = np.zeros((2, 3))
    assert fixed.in_onnx_shape("y", values) is values


def test_a_shape_that_is_computed_is_known(tmp_path: Path) -> None:
    """From the initializers that are small; those of weights are not even looked at."""
    model = build(
        "g (float[N,16] x) => (float[a,b,c] y) { m = MatMul(x, w) y = Reshape(m, s) }",
        {"w": normal(0, 16, 96), "s": np.array([0, -1, 4], np.int64)},
    )
    fixed, _ = written(model, {"x": normal(1, 3, 16)}, tmp_path)
    assert fixed.output_shapes == {"y": (3, 24, 4)}
    assert fixed.in_onnx_shape("y", np.zeros((3, 96))).shape == (3, 24, 4)
    assert fixed.in_onnx_shape("y", np.zeros((3, 95))).shape == (3, 95)


def test_a_file_is_read_and_not_touched(tmp_path: Path) -> None:
    model = build(f"g (float[N,3,8,8] x) => (float[N,4,8,8] y) {CONV}", WEIGHTS)
    onnx.save(model, tmp_path / "in.onnx")
    (tmp_path / "out").mkdir()
    before = (tmp_path / "in.onnx").read_bytes()
    fixed = write_fixed(tmp_path / "in.onnx", {"x": normal(1, 1, 3, 8, 8)}, tmp_path / "out")
    assert fixed.file == tmp_path / "out/model.onnx"
    assert (tmp_path / "in.onnx").read_bytes() == before
