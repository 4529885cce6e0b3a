"""Scaling the channels between factors: nothing changes in what they compute, and both sides get the same norms."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_lowrank.torch import from_torch, to_torch
from onnx_lowrank.torch.training.balance import balance, factor_pairs
from tests.helpers import build, normal, relative, run

SIZES = {"Conv": (5, 4), "ConvTranspose": (4, 5)}  # filters and channels, as the operators order them


@pytest.mark.parametrize("ops", list(product(SIZES, repeat=2)))
def test_both_sides_of_a_channel_get_the_same_norm(ops: tuple[str, str]) -> None:
    first, second = ops
    weights = {
        "w": normal(0, *SIZES[first], 3, 2) * 10,
        "b": normal(1, 5),
        "v": normal(2, *SIZES[second][::-1], 2, 2) / 10,
    }
    text = f"g (float[N,4,6,6] x) => (float[N,4,h,v] y) {{ a = {first}(x, w, b)  y = {second}(a, v) }}"
    model, x = build(text, weights), normal(3, 2, 4, 6, 6)
    module = to_torch(model)
    pairs = factor_pairs(model.graph)
    balance(module.state_dict(), pairs, module.state_keys(["w", "b", "v"]))
    balanced = from_torch(module, model)
    assert relative(run(model, {"x": x})["y"], run(balanced, {"x": x})["y"]) < 1e-6
    made, _, read = map(numpy_helper.to_array, balanced.graph.initializer)
    sides = np.moveaxis(made, SIZES[first].index(5), 0), np.moveaxis(read, SIZES[second][::-1].index(5), 0)
    norms = [np.linalg.norm(weight.reshape(5, -1), axis=1) for weight in sides]
    np.testing.assert_allclose(*norms, rtol=1e-4)
