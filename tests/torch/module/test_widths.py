"""Networks that have lost channels, as modules and trained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from onnx_lowrank import convert
from onnx_lowrank.torch import FinetuneSettings, finetune, from_torch, to_torch
from tests.conformance.test_widths import DATA, HOW, NETWORKS, UNSEEN
from tests.helpers import relative, run


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network and what it is without some channels."""
    model = NETWORKS[request.param]()
    result = convert(model, {"x": DATA}, method="width", speedup=1.6, **HOW)
    assert result.model is not None
    return model, result.model


def test_as_a_module(pair: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    _, narrow = pair
    module = to_torch(narrow)
    with torch.no_grad():
        found = module(torch.from_numpy(UNSEEN)).numpy()
    wanted = run(narrow, {"x": UNSEEN})["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert from_torch(module, narrow).graph == narrow.graph


def test_trained(pair: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    model, narrow = pair
    how = FinetuneSettings(epochs=4, batch_size=10, threads=1, provider="cpu", seed=0)
    trained = finetune(model, narrow, {"x": DATA}, how).model
    before, after = (
        relative(run(model, {"x": UNSEEN})["y"], run(each, {"x": UNSEEN})["y"]) for each in (narrow, trained)
    )
    assert after < before
    shapes = [[list(tensor.dims) for tensor in each.graph.initializer] for each in (narrow, trained)]
    assert shapes[0] == shapes[1]
