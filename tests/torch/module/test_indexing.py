"""Slice and Gather against onnxruntime: bounds beyond the ends, from the end, backwards; indices of any shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.torch import to_torch
from tests.helpers import normal
from tests.torch.oracle import assert_same, one_node

Array = NDArray[Any]
quickly = settings(deadline=None, max_examples=80)
SHAPE = (3, 5, 4)


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, list[int]]:
    """Settings of a Slice; axes in any order, from either end, or left out."""
    axes = draw(st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)))
    count = draw(st.integers(1, 3)) if axes is None else len(axes)
    forward, backward = st.integers(1, 4), st.integers(-4, -1)
    steps = draw(st.lists(st.one_of(forward, backward), min_size=count, max_size=count))
    if draw(st.booleans()):
        steps = [1] * count
    # As the standard says to the end: the largest number forward, the smallest backward.
    ends = {step: (2**31 - 1, 2**63 - 1) if step > 0 else (-(2**31), -(2**63)) for step in steps}
    found = {
        "starts": [draw(st.integers(-9, 9)) for _ in steps],
        "ends": [draw(st.one_of(st.integers(-9, 9), st.sampled_from(ends[step]))) for step in steps],
    }
    if axes is not None:
        found["axes"] = [axis - draw(st.sampled_from([0, 3])) for axis in axes]
    if set(steps) != {1} or draw(st.booleans()):
        found["steps"] = steps
    return found


@quickly
@given(cuts(), st.sampled_from([np.int32, np.int64]), st.sampled_from([10, 13]), st.booleans())
def test_slice(cut: dict[str, list[int]], kind: type[np.integer[Any]], opset: int, held: bool) -> None:
    x, most = normal(0, *SHAPE), np.iinfo(kind)
    numbers = {
        name: np.clip(np.array(each, dtype=object), most.min, most.max).astype(kind) for name, each in cut.items()
    }
    order = ["x", "starts", "ends", "axes" if "axes" in cut else "", "steps" if "steps" in cut else ""]
    while not order[-1]:
        order.pop()
    given_, constants = ({"x": x}, numbers) if held else ({"x": x, **numbers}, {})
    assert_same(one_node("Slice", given_, constants, opset=opset, order=order), given_, 0)


@quickly
@given(cuts())
def test_slice_by_attributes(cut: dict[str, list[int]]) -> None:
    x = normal(0, *SHAPE)
    assume(set(cut.pop("steps", [1])) == {1})
    assert_same(one_node("Slice", {"x": x}, opset=9, **cut), {"x": x}, 0)


@pytest.mark.parametrize(
    "cut",
    [
        {"starts": [-(2**63)], "ends": [2]},
        {"starts": [0], "ends": [-(2**63)]},
        {"starts": [1], "ends": [9], "axes": [0], "steps": [2**63 - 1]},
        {"starts": [-4], "ends": [-4], "axes": [0], "steps": [-1]},  # the standard clamps the start to the first row
        {"starts": [2**63 - 1], "ends": [-(2**63)], "axes": [1], "steps": [-(2**31)]},
    ],
    ids=str,
)
def test_slice_with_numbers_beyond_all_sizes(cut: dict[str, list[int]]) -> None:
    x, numbers = normal(0, *SHAPE), {name: np.array(each) for name, each in cut.items()}
    assert_same(one_node("Slice", {"x": x}, numbers), {"x": x}, 0)


@quickly
@given(st.integers(-3, 2), st.data(), st.sampled_from([np.int32, np.int64]), st.booleans())
def test_gather(axis: int, data: st.DataObject, kind: type[np.integer[Any]], held: bool) -> None:
    x, shape = normal(0, *SHAPE), data.draw(st.sampled_from([(), (1,), (4,), (2, 3), (0,)]))
    size = SHAPE[axis]
    count = int(np.prod(shape, dtype=int))
    taken = data.draw(st.lists(st.integers(-size, size - 1), min_size=count, max_size=count))
    indices = {"indices": np.array(taken, dtype=kind).reshape(shape)}
    given_, constants = ({"x": x}, indices) if held else ({"x": x, **indices}, {})
    assert_same(one_node("Gather", given_, constants, axis=axis), given_, 0)


def test_gather_along_the_first_axis_unless_told() -> None:
    indices = np.array([[1, -1]])
    model = one_node("Gather", {"indices": indices}, {"table": normal(0, 3, 4)}, order=["table", "indices"])
    assert_same(model, {"indices": indices}, 0)


@pytest.mark.parametrize("op", ["Slice", "Gather"])
def test_gradients_reach_what_is_taken_and_nothing_else(op: str) -> None:
    x = normal(0, 1, 6)
    settings_ = {"starts": [4], "ends": [0], "axes": [1], "steps": [-2]} if op == "Slice" else {"indices": [2, -2]}
    numbers = {name: np.array(each) for name, each in settings_.items()}
    module = to_torch(one_node(op, {"x": x}, numbers, **({} if op == "Slice" else {"axis": 1})))
    given_ = torch.from_numpy(x).requires_grad_()
    (gradient,) = torch.autograd.grad(module(given_).sum(), given_)
    assert gradient.tolist() == [[0, 0, 1, 0, 1, 0]]
