"""Rows, and all that is computed from them, stay on their device: only the factors come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest

from onnx_lowrank.layers import activation as act
from onnx_lowrank.layers.activation import Activation
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg import moments
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.linalg.row_blocks import BLOCK_ROWS, DEVICE_BLOCK_ROWS, row_blocks
from onnx_lowrank.solve import activation_steps, balance, nonlinear, solve_layer
from onnx_lowrank.solve.activation_steps import activation_step
from tests.example_layers import conv_layer
from tests.helpers import normal
from tests.solve.test_patches import SlicesOnly
from tests.solve.test_spatial_channel import CHANNELS, FILTERS, correlated, problem
from tests.solve.test_tensors import PLANS

ROWS = 997  # prime, and far more than there is of anything else
SMALL = 100  # no factor has a larger side


@pytest.fixture(autouse=True, scope="module")
def _small_products(tensor: Callable[[Any], Any]) -> Iterator[None]:
    """Matrices this small only wait for each other on several threads."""
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator on the device takes long, and all turns of the nonlinear solver run the same ones."""
    monkeypatch.setattr(nonlinear, "_MIN_GAIN", 0.1)


def grouped(activation: Activation) -> tuple[Layer, LayerSamples]:
    """Two groups of half the channels each."""
    layer = replace(conv_layer(FILTERS, CHANNELS // 2, (3, 3), (8, 8)), activation=activation, groups=2)
    patches = correlated(0, ROWS)
    filtered = [
        np.einsum("dchw,nchw->nd", part.weight, patches[:, read], optimize=True) + part.bias
        for part, read, _ in layer.parts
    ]
    arrived = patches + 0.05 * patches.std() * normal(1, *patches.shape)
    return layer, LayerSamples(TargetResponses(np.concatenate(filtered, axis=1)), arrived)


def assert_stays(layer: Layer, responses: LayerSamples, plan: LayerPlan, solver: str = "auto") -> None:
    from onnx_lowrank.solve.device import to_device
    from tests.solve.simulated_device import DEVICE, simulated_device

    wanted = solve_layer(layer, responses, plan, solver)
    patches: Any = responses.patches if layer.groups > 1 else SlicesOnly(responses.patches)
    with simulated_device() as traffic:
        there = LayerSamples(to_device(responses.targets, DEVICE), patches)
        sent = len(traffic.sent)
        found = solve_layer(layer, there, plan, solver)
    np.testing.assert_allclose(found.errors.linear, wanted.errors.linear, rtol=1e-4)
    np.testing.assert_allclose(found.errors.solved, wanted.errors.solved, rtol=2e-3)
    # The weights and the bias of the chain come back, and nothing else; the paper's way has two steps.
    assert all(max(shape, default=0) <= SMALL for shape in traffic.fetched)
    steps = 2 if solver == "paper" else 1
    assert len(traffic.fetched) <= steps * layer.groups * (len(found.convolutions) + 1)
    # Of what is long, patches alone are sent after the targets; and the grid of the z step, once.
    long = [shape for shape in traffic.sent[sent:] if max(shape, default=0) > SMALL]
    grid = (activation_steps.TARGET_CELLS * activation_steps.PREDICTION_CELLS,)
    kernels = {layer.kernel, (1, prod(layer.kernel))}  # the latter with its points in a row
    assert all(shape == grid or shape[2:] in kernels for shape in long)
    if layer.groups == 1:  # and whenever they are read, but for the few that ranges of channels are measured on
        read = [length for length in patches.lengths if length > balance.ROWS_PER_PIECE]
        assert [shape[0] for shape in long if shape != grid] == read
        assert len(patches.lengths) == len(read) + balance.PIECES


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize(
    ("activation", "residual"),
    [(act.relu(), True), (act.gelu(), False), (act.hard_swish(), True)],
    ids=["relu", "gelu", "hard_swish"],
)
def test_layers(activation: Activation, method: str, residual: bool) -> None:
    assert_stays(*problem(activation, count=ROWS, residual=residual), PLANS[method])


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("solver", ["linear", "weights", "paper"])
def test_every_solver(solver: str, method: str) -> None:
    assert_stays(*problem(act.prelu(np.linspace(-0.2, 0.5, FILTERS)), count=ROWS), PLANS[method], solver)


@pytest.mark.parametrize("method", PLANS)
def test_groups(method: str) -> None:
    assert_stays(*grouped(act.silu()), PLANS[method])


def test_blocks_are_larger_there() -> None:
    import torch

    from tests.solve.simulated_device import simulated_device

    with simulated_device():
        rows = torch.empty((DEVICE_BLOCK_ROWS + 1, 1), device="meta")
        assert [part.stop - part.start for part in row_blocks(rows)] == [DEVICE_BLOCK_ROWS, 1]
    assert [part.stop - part.start for part in row_blocks(np.empty((BLOCK_ROWS + 1, 1)))] == [BLOCK_ROWS, 1]
    assert DEVICE_BLOCK_ROWS > BLOCK_ROWS


@pytest.mark.parametrize("activation", [act.relu(), act.silu()], ids=lambda a: a.name)
def test_blocks_of_the_device_add_up(activation: Activation, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tests.solve.simulated_device import DEVICE, simulated_device

    monkeypatch.setattr(activation_steps, "DEVICE_BLOCK_ELEMENTS", 100)
    monkeypatch.setattr("onnx_lowrank.linalg.row_blocks.DEVICE_BLOCK_ROWS", 50)
    targets, predictions = np.random.default_rng(0).normal(size=(2, 333, 3))
    wanted = activation_step(activation, targets, predictions, 0.1)
    with simulated_device():
        t, p = (torch.asarray(each, device=DEVICE) for each in (targets, predictions))
        found = activation_step(activation, t, p, 0.1).cpu()
        cross = moments.Moments.of(t, p).cross.cpu()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(cross.numpy(), moments.Moments.of(targets, predictions).cross, rtol=1e-10, atol=1e-10)


# The device itself


def test_it_tells_when_the_host_takes_part() -> None:
    import torch

    from tests.solve.simulated_device import DEVICE, simulated_device

    here = np.ones((3, 2), np.float32)
    with simulated_device() as traffic:
        there = torch.asarray(here, device=DEVICE)
        assert traffic.sent == [(3, 2)]
        assert str(there.device) == DEVICE
        assert float((2 * there).sum()) == 12
        for mixed in (
            lambda: there + torch.asarray(here),
            lambda: here + there,
            lambda: there @ here.T,
            lambda: there[torch.asarray([0])],
            lambda: there.copy_(torch.asarray(here)),
        ):
            with pytest.raises((TypeError, RuntimeError)):
                mixed()
        for read in (np.asarray, np.sum, np.linalg.norm, lambda x: np.where(x > 0, x, 0)):
            with pytest.raises((TypeError, RuntimeError)):
                read(there)
        assert traffic.fetched == []
        np.testing.assert_array_equal(there.cpu().numpy(), here)
        assert traffic.fetched == [(3, 2)]
    with pytest.raises(RuntimeError, match="there is no device any more"):
        there + 1
