"""Operators with weights against onnxruntime, over all their attributes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.helpers import normal
from tests.torch.oracle import assert_same, one_node

quickly = settings(deadline=None, max_examples=60)
KINDS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Case:
    """A node with weights.

    Attributes:
        shape: of the input.
        weight: its shape.
        bias: how many numbers; 0 for none.
        attributes: of the node.
    """

    shape: list[int]
    weight: list[int]
    bias: int
    attributes: dict[str, Any]

    def check(self, op: str) -> None:
        weights = {"w": (normal(1, *self.weight) / np.sqrt(prod(self.weight[1:]))).astype(np.float32)}
        if self.bias:
            weights["b"] = normal(2, self.bias)
        x = normal(0, *self.shape)
        assert_same(one_node(op, {"x": x}, weights, **self.attributes), {"x": x})


def per_axis(draw: st.DrawFn, axes: int, least: int, most: int) -> list[int]:
    return draw(st.lists(st.integers(least, most), min_size=axes, max_size=axes))


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """A Conv in one, two or three dimensions."""
    axes, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 4]))
    kernel, dilations = per_axis(draw, axes, 1, 3), per_axis(draw, axes, 1, 2)
    given: dict[str, Any] = {"dilations": dilations, "strides": per_axis(draw, axes, 1, 3), "group": group}
    kind = draw(st.sampled_from([None, *KINDS]))
    if kind is not None:
        given["auto_pad"] = kind
    if kind in {None, "NOTSET"}:
        given["pads"] = per_axis(draw, 2 * axes, 0, 2)
    if kind in {"SAME_UPPER", "SAME_LOWER"}:
        given["dilations"] = [1] * axes  # onnxruntime takes no others with these
    if draw(st.booleans()):
        given["kernel_shape"] = kernel
    for name in ("dilations", "strides"):
        if draw(st.booleans()) and set(given[name]) == {1}:
            del given[name]
    shape = [draw(st.integers(1, 2)), 4, *per_axis(draw, axes, 5, 8)]
    filters = 4 * draw(st.integers(1, 2))
    return Case(shape, [filters, 4 // group, *kernel], filters if draw(st.booleans()) else 0, given)


@quickly
@given(convolutions())
def test_convolution(case: Case) -> None:
    case.check("Conv")


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> Case:
    """A ConvTranspose, its output sized by pads, automatically, or by its shape."""
    axes, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2]))
    kernel, dilations, strides = per_axis(draw, axes, 1, 4), per_axis(draw, axes, 1, 2), per_axis(draw, axes, 1, 3)
    size = per_axis(draw, axes, 2, 6)
    given: dict[str, Any] = {"dilations": dilations, "strides": strides, "group": group}
    extra = [draw(st.integers(0, max(0, step - 1))) for step in strides]
    reach = [(k - 1) * each + 1 for k, each in zip(kernel, dilations, strict=True)]
    whole = [(s - 1) * step + r + e for s, step, r, e in zip(size, strides, reach, extra, strict=True)]
    given["output_padding"] = extra
    way = draw(st.sampled_from(["pads", "shape", "shape and kind", *KINDS]))
    if way == "pads":
        given["pads"] = [min(pad, (whole[i % axes] - 1) // 2) for i, pad in enumerate(per_axis(draw, 2 * axes, 0, 2))]
    elif way in KINDS:
        given["auto_pad"] = way
        if way.startswith("SAME"):  # no more than there is
            assume(all(w >= s * step for w, s, step in zip(whole, size, strides, strict=True)))
    else:
        given["output_shape"] = [draw(st.integers(max(1, most - 4), most)) for most in whole]
        if way == "shape and kind":
            given["auto_pad"] = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    if set(extra) == {0} and draw(st.booleans()):
        del given["output_padding"]
    filters = draw(st.integers(1, 3))
    return Case([2, 4, *size], [4, filters, *kernel], filters * group if draw(st.booleans()) else 0, given)


@quickly
@given(transposed_convolutions())
def test_transposed_convolution(case: Case) -> None:
    case.check("ConvTranspose")


@pytest.mark.parametrize("kind", KINDS)
def test_transposed_convolution_to_a_shape_whatever_the_kind(kind: str) -> None:
    """Exporters write NOTSET, too; only SAME_UPPER makes a difference."""
    case = Case([1, 2, 4], [2, 2, 3], 0, {"strides": [2], "output_shape": [8], "auto_pad": kind})
    case.check("ConvTranspose")


def test_transposed_convolution_with_every_choice_left_out() -> None:
    x, weight = normal(0, 2, 4, 5), normal(1, 4, 3, 2) / 3
    assert_same(one_node("ConvTranspose", {"x": x}, {"w": weight}), {"x": x})


@quickly
@given(
    turned=st.tuples(st.sampled_from([None, 0, 1]), st.sampled_from([None, 0, 1])),
    scales=st.tuples(st.sampled_from([None, 0.5, -2.0]), st.sampled_from([None, 0.0, 0.25, 3.0])),
    added=st.sampled_from([None, (5,), (1,), (), (1, 5), (3, 5), (3, 1)]),
    held=st.booleans(),
)
def test_matrix_product(
    turned: tuple[int | None, int | None],
    scales: tuple[float | None, float | None],
    added: tuple[int, ...] | None,
    held: bool,
) -> None:
    a, b = normal(0, *((4, 3) if turned[0] else (3, 4))), normal(1, *((5, 4) if turned[1] else (4, 5)))
    other = {} if added is None else {"c": normal(2, *added)}
    choices = dict(zip(("transA", "transB", "alpha", "beta"), (*turned, *scales), strict=True))
    attributes = {name: value for name, value in choices.items() if value is not None}
    given_, constants = ({"a": a}, {"b": b, **other}) if held else ({"a": a, "b": b, **other}, {})
    assert_same(one_node("Gemm", given_, constants, **attributes), given_)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 7), (2, 6, 4, 5), (1, 6, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("opset", [9, 15])
def test_batch_normalization(shape: tuple[int, ...], opset: int) -> None:
    x = normal(0, *shape)
    numbers = {"scale": normal(1, 6), "bias": normal(2, 6), "mean": normal(3, 6), "variance": np.abs(normal(4, 6))}
    for attributes in ({}, {"epsilon": 0.1, "momentum": 0.5}):
        assert_same(one_node("BatchNormalization", {"x": x}, numbers, opset=opset, **attributes), {"x": x})


@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 6, 4, 5), (1, 6, 2, 3, 2), (2, 6, 1, 1)], ids=str)
@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_instance_normalization(shape: tuple[int, ...], epsilon: float | None) -> None:
    x, attributes = normal(0, *shape), {} if epsilon is None else {"epsilon": epsilon}
    model = one_node("InstanceNormalization", {"x": x}, {"scale": normal(1, 6), "bias": normal(2, 6)}, **attributes)
    # Variances are summed in another order; of a single number onnxruntime finds none, and scales what rounding leaves.
    assert_same(model, {"x": x}, 1e-4 if shape[2:] == (1, 1) else 2e-6)
