"""Chains that begin with a 1 x 1 convolution, as modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnx_lowrank import LayerPlan, RankPlan, convert
from onnx_lowrank.torch import from_torch, to_torch
from onnx_lowrank.torch.training.balance import factor_pairs
from tests.helpers import run
from tests.networks import images, network

PLANS = {
    "input": (LayerPlan("c2", "input", input=5), LayerPlan("c3", "input", input=9)),
    "tucker": (LayerPlan("c2", "tucker", 6, input=5), LayerPlan("c3", "tucker", 7, input=9)),
}


@pytest.mark.parametrize("method", PLANS)
def test_as_a_module(method: str) -> None:
    result = convert(network(), {"x": images()}, plan=RankPlan(PLANS[method]), refine="none", bench=False)
    model = result.model
    assert model is not None
    module, x = to_torch(model), images(7, seed=5)
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    wanted = run(model, {"x": x})["scores"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert from_torch(module, model).graph == model.graph
    # Fine-tuning balances what is between factors: one place or two in each of both chains.
    assert len(factor_pairs(model.graph)) == {"input": 2, "tucker": 4}[method]
