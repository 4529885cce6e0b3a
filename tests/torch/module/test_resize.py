"""Resize against onnxruntime: all ways to place pixels that it knows, up and down, by scales and by sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.torch import to_torch
from tests.helpers import normal
from tests.torch.oracle import assert_same, one_node

Array = NDArray[Any]
quickly = settings(deadline=None, max_examples=100)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
PLACES = {
    11: ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
    13: ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
    18: ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
    19: ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"),
}
# Halves, thirds and quarters, 2 and 4: as networks have them. Products that are whole numbers but for rounding are left
# out: onnxruntime rounds them in float32.
SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 4.0)
LINEAR = 2e-6  # places are float32 too


@st.composite
def resizings(draw: st.DrawFn, mode: str) -> tuple[list[int], dict[str, list[float]], int, dict[str, Any]]:
    """The shape of an input, scales or sizes, the opset, the attributes."""
    opset = draw(st.sampled_from(sorted(PLACES)))
    whole = [2, 3, draw(st.integers(1, 9)), draw(st.integers(1, 9))]
    given_: dict[str, Any] = {"mode": mode}
    way = draw(st.sampled_from([None, *PLACES[opset]]))
    if way is not None:
        given_["coordinate_transformation_mode"] = way
    if mode == "nearest" and draw(st.booleans()):
        given_["nearest_mode"] = draw(st.sampled_from(ROUNDINGS))
    axes = draw(st.sampled_from([None, [2, 3], [3, 2], [-1], [-2, -1]])) if opset >= 18 else None
    if axes is not None:
        given_["axes"] = axes
    resized = [2, 3] if axes is None else [axis % 4 for axis in axes]
    if draw(st.booleans()):
        numbers = [1.0, 1.0] * (axes is None) + [draw(st.sampled_from(SCALES)) for _ in resized]
        shape = [1, 1] * (axes is None) + [whole[axis] for axis in resized]
        assume(all(int(scale * size) for scale, size in zip(numbers, shape, strict=True)))
        return whole, {"scales": numbers}, opset, given_
    goals = [2, 3] * (axes is None) + [draw(st.integers(1, 16)) for _ in resized]
    pairs = zip([whole[axis] for axis in resized], goals[-len(resized) :], strict=True)
    assume(mode != "nearest" or not any(hangs_by_digits(*each) for each in pairs))
    return whole, {"sizes": goals}, opset, given_


def hangs_by_digits(size: int, out: int) -> bool:
    """Whether a place may be halfway between two pixels or not, by how a quotient is rounded."""
    for shift in (0.0, 0.5):
        exact = (np.arange(out) + shift) / (out / size) - shift
        single = (np.arange(out, dtype=np.float32) + np.float32(shift)) / np.float32(out / size) - np.float32(shift)
        if any((exact != single) & (np.abs(exact % 1 - 0.5) < 1e-4)):
            return True
    return False


def check(case: tuple[list[int], dict[str, list[float]], int, dict[str, Any]], most: float) -> None:
    shape, numbers, opset, attributes = case
    constants: dict[str, Array] = {}
    if opset < 13:  # which has no optional inputs
        constants = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32)}
    for name, each in numbers.items():
        constants[name] = np.array(each, np.float32 if name == "scales" else np.int64)
    order = ["x", "roi", "scales", *(["sizes"] if "sizes" in numbers else [])]
    order = [name if name == "x" or name in constants else "" for name in order]
    x = normal(0, *shape)
    assert_same(one_node("Resize", {"x": x}, constants, opset=opset, order=order, **attributes), {"x": x}, most)


@quickly
@given(resizings("nearest"))
def test_nearest(case: tuple[list[int], dict[str, list[float]], int, dict[str, Any]]) -> None:
    check(case, 0)


@quickly
@given(resizings("linear"))
def test_linear(case: tuple[list[int], dict[str, list[float]], int, dict[str, Any]]) -> None:
    check(case, LINEAR)


@pytest.mark.parametrize("mode", ["nearest", "linear", None])
@pytest.mark.parametrize("scales", [(2, 2), (0.5, 3), (1.5, 0.25)], ids=str)
def test_opset_10(mode: str | None, scales: tuple[float, float]) -> None:
    x, numbers = normal(0, 2, 3, 8, 12), {"scales": np.array([1, 1, *scales], np.float32)}
    attributes = {} if mode is None else {"mode": mode}
    assert_same(one_node("Resize", {"x": x}, numbers, opset=10, **attributes), {"x": x}, LINEAR)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("place", [("scales", [1, 1, 2]), ("sizes", [2, 3, 9])], ids=str)
def test_one_axis_of_space(mode: str, place: tuple[str, list[int]]) -> None:
    name, numbers = place
    x, order = normal(0, 2, 3, 7), ["x", *[""] * (2 if name == "sizes" else 1), name]
    constants = {name: np.array(numbers, np.float32 if name == "scales" else np.int64)}
    assert_same(one_node("Resize", {"x": x}, constants, order=order, mode=mode), {"x": x}, LINEAR)


def test_axes_from_the_end() -> None:
    x, scales = normal(0, 1, 2, 4, 5), {"scales": np.array([2, 3], np.float32)}
    model = one_node("Resize", {"x": x}, scales, opset=18, order=["x", "", "scales"], mode="linear", axes=[-2, -1])
    assert_same(model, {"x": x}, LINEAR)


def test_three_axes_of_space() -> None:
    x, scales = normal(0, 1, 2, 3, 4, 5), {"scales": np.array([1, 1, 2, 0.5, 1.5], np.float32)}
    assert_same(one_node("Resize", {"x": x}, scales, order=["x", "", "scales"], mode="linear"), {"x": x}, LINEAR)


def test_a_region_that_is_not_used_may_be_given() -> None:
    """As exporters of TensorFlow write it, with an empty tensor of scales beside the sizes."""
    x = normal(0, 1, 2, 4, 4)
    numbers = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32), "sizes": np.array([1, 2, 8, 6])}
    assert_same(one_node("Resize", {"x": x}, numbers, opset=11, mode="linear"), {"x": x}, LINEAR)


def test_sizes_may_be_given_when_it_runs() -> None:
    x, sizes = normal(0, 1, 2, 4, 4), np.array([1, 2, 8, 6])
    model = one_node("Resize", {"x": x, "sizes": sizes}, order=["x", "", "", "sizes"], mode="nearest")
    assert_same(model, {"x": x, "sizes": sizes}, 0)


def test_it_can_be_trained_through() -> None:
    """Every output of the linear kind is an average, so the gradients of their sum add up to their number."""
    x = torch.from_numpy(normal(0, 1, 1, 4, 5)).requires_grad_()
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    model = one_node("Resize", {"x": normal(0, 1, 1, 4, 5)}, scales, order=["x", "", "scales"], mode="linear")
    module = to_torch(model)
    (gradient,) = torch.autograd.grad(module(x).sum(), x)
    assert gradient.sum().item() == pytest.approx(80)
    assert gradient.min() > 0


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"mode": "cubic"}, "cubic, half_pixel"),
        ({"mode": "linear", "antialias": 1}, "linear, half_pixel, antialias"),
        ({"mode": "linear", "exclude_outside": 1}, "linear, half_pixel, exclude_outside"),
        ({"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}, "linear, tf_crop_and_resize"),
    ],
    ids=str,
)
def test_other_kinds_are_refused(attributes: dict[str, Any], said: str) -> None:
    x, scales = normal(0, 1, 2, 4, 4), {"scales": np.array([1, 1, 2, 2], np.float32)}
    model = one_node("Resize", {"x": x}, scales, opset=18, order=["x", "", "scales"], **attributes)
    with pytest.raises(ModelError) as raised:
        to_torch(model)
    assert str(raised.value) == (
        f"Resize 'only': {said}: only nearest and linear resizing can be trained through, without antialiasing or "
        "regions: export it so"
    )
