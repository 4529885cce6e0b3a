"""Steps of matrices against their singular value decompositions, of vectors against plain momentum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from onnx_lowrank.torch.training.muon import Muon, orthogonalize
from tests.torch.plain_steps import alike_in_all_directions, matrix_step

EXACT = 1e-5  # of steps relative to their size, in single precision


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_singular_vectors_stay_and_singular_values_become_alike(rows: int, columns: int, seed: int) -> None:
    matrix = drawn(seed, rows, columns)
    found = orthogonalize(matrix / matrix.norm()).double()
    left, sizes, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    turned = left.T @ found @ right.T
    off = turned - torch.diag(torch.diag(turned))
    assert off.abs().max() < 1e-4
    large = sizes > 0.02 * sizes.norm()
    assert large.any()
    assert (torch.diag(turned)[large] > 0.6).all()
    assert (torch.diag(turned) < 1.25).all()


def test_the_iteration_is_the_polynomial_on_singular_values() -> None:
    matrix = drawn(3, 7, 4)
    matrix /= matrix.norm()
    wanted = alike_in_all_directions(matrix.double().numpy())
    np.testing.assert_allclose(orthogonalize(matrix).numpy(), wanted, rtol=0, atol=EXACT)


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (4, 9), (9, 4), (5, 1, 3, 3), (1, 7)])
def test_three_steps_of_a_weight(shape: tuple[int, ...]) -> None:
    weight = drawn(0, *shape).requires_grad_()
    optimizer = Muon([weight], lr=0.0)
    plain, momentum = weight.detach().double().numpy().copy(), np.zeros(shape)
    for number, rate in enumerate((0.1, 0.05, 0.02)):
        slope = drawn(10 + number, *shape)
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = slope.clone()
        optimizer.step()
        step, momentum = matrix_step(plain, slope.double().numpy(), momentum)
        plain -= rate * step
        np.testing.assert_allclose(weight.detach().numpy(), plain, rtol=0, atol=EXACT * np.linalg.norm(plain))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_step_is_as_long_as_the_rate_says_whatever_the_gradient(size: float) -> None:
    weight = (size * drawn(0, 8, 16)).requires_grad_()
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.01)
    weight.grad = drawn(1, 8, 16) / size
    optimizer.step()
    moved = float((weight.detach() - before).norm() / before.norm())
    assert 0.007 < moved < 0.012  # singular values are only about 1


def test_vectors_go_down_their_gradients() -> None:
    ours, plain = (drawn(0, 5).requires_grad_() for _ in range(2))
    pair = Muon([ours], lr=0.1), torch.optim.SGD([plain], lr=0.1, momentum=0.9, nesterov=True)
    for number in range(3):
        for weight, optimizer in zip((ours, plain), pair, strict=True):
            weight.grad = drawn(number, 5)
            optimizer.step()
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)


def test_a_matrix_too_large_to_orthogonalize_moves_along_its_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.torch.training.muon._MAX_SHORT_SIDE", 3)
    weight, slope = drawn(0, 4, 6).requires_grad_(), drawn(1, 4, 6)
    before = weight.detach().clone()
    weight.grad = slope
    Muon([weight], lr=0.1).step()
    wanted = before - 0.1 * before.norm() * slope / slope.norm()
    torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-6)


def test_nothing_moves_without_a_gradient() -> None:
    weights = [drawn(number, 4, 4).requires_grad_() for number in range(2)]
    before = [weight.detach().clone() for weight in weights]
    weights[1].grad = torch.zeros(4, 4)
    Muon(weights, lr=0.5).step()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
