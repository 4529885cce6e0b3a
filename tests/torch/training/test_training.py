"""Gradients reach every parameter, a few steps lower a loss, and what comes out is a network as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.torch import OnnxModule, from_torch, to_torch
from tests.conformance.test_precision import typed
from tests.helpers import relative, run
from tests.networks import images
from tests.torch.oracle import WHOLE, as_tuple, outputs_of
from tests.torch.real_networks import QUICK_ONES, REAL

Array = NDArray[Any]


def loss(module: OnnxModule, batch: Array) -> torch.Tensor:
    """Distance of the outputs from numbers that they are not."""
    found = as_tuple(module(torch.from_numpy(batch)))
    generator = torch.Generator().manual_seed(0)
    wanted = [torch.randn(each.shape, generator=generator) * each.detach().std() for each in found]
    return sum((each - goal).square().mean() for each, goal in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", QUICK_ONES)
def test_every_parameter_has_a_gradient(name: str) -> None:
    module = to_torch(REAL[name].model).train()
    loss(module, REAL[name].smallest).backward()
    parameters = dict(module.named_parameters())
    assert len(parameters) > 4
    assert [key for key, each in parameters.items() if each.grad is None] == []
    assert [key for key, each in parameters.items() if not each.grad.isfinite().all()] == []
    alive = sum(bool(each.grad.any()) for each in parameters.values())
    assert alive >= 0.75 * len(parameters)  # the others are behind activations that these images leave at rest


STEPS = ["demo", "demo, converted", "detector, converted", "channels_last", "angle", "squeezenet"]


@pytest.mark.parametrize("name", STEPS)
def test_a_few_steps_lower_a_loss(name: str) -> None:
    """Towards outputs of half the size."""
    model, batch = REAL[name].model, REAL[name].batches()[0]
    module = to_torch(model).train()
    goals = [each.detach() / 2 for each in as_tuple(module(torch.from_numpy(batch)))]
    optimizer = torch.optim.SGD(module.parameters())
    errors = []
    for _ in range(6):
        optimizer.zero_grad()
        found = as_tuple(module(torch.from_numpy(batch)))
        error = sum((each - goal).square().mean() for each, goal in zip(found, goals, strict=True))
        error.backward()
        errors.append(error.item())
        slope = sum(each.grad.square().sum().item() for each in module.parameters())
        optimizer.param_groups[0]["lr"] = 0.1 * error.item() / slope  # a tenth of the way to zero, were it straight
        optimizer.step()
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.85 * errors[0]
    wanted = run(from_torch(module, model), {module.inputs[0]: batch})
    for want, have in zip(wanted.values(), outputs_of(module, batch), strict=True):
        assert relative(want, have) < WHOLE


def test_half_precision_is_trained_in_single_and_goes_back() -> None:
    model = typed("float16")
    module = to_torch(model, torch.float32).train()
    assert {each.dtype for each in module.parameters()} == {torch.float32}
    batch = torch.from_numpy(images(16, size=8))
    goal = 0.5 * module(batch)[0].detach()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    errors = []
    for _ in range(20):
        optimizer.zero_grad()
        error = (module(batch)[0] - goal).square().mean()
        error.backward()
        errors.append(error.item())
        optimizer.step()
    assert errors[-1] < 0.7 * errors[0]
    after = from_torch(module, model)
    assert [tensor.data_type for tensor in after.graph.initializer] == [t.data_type for t in model.graph.initializer]
    assert next(iter(run(after, {"x": images(2, size=8).astype(np.float16)}).values())).dtype == np.float16
    # A module of the written model is the trained one, but for the digits that its type does not have.
    pair = [outputs_of(each, images(2, size=8)) for each in (module, to_torch(after, torch.float32))]
    for want, have in zip(*pair, strict=True):
        assert relative(want, have) < 2e-3
    trained = {name for name, _ in module.named_parameters()}
    for old, new in zip(model.graph.initializer, after.graph.initializer, strict=True):
        same = np.array_equal(numpy_helper.to_array(old), numpy_helper.to_array(new))
        assert same == (old.name not in trained), old.name
