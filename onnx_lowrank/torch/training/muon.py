"""Muon: an optimizer that takes steps of the same size in all directions of a weight matrix.

The factors of a converted layer are badly conditioned: gradients live in a few directions, and plain gradient descent
hardly moves along the others. So the momentum of every matrix is replaced by the nearest orthogonal matrix, U V^T of
its singular value decomposition, computed by a Newton-Schulz iteration; the learning rate is the length of a step
relative to the matrix. Biases and other vectors follow their gradients.

| code     | meaning                                                       | shape    |
|----------|---------------------------------------------------------------|----------|
| weight   | W, a filter per row                                           | (m, n)   |
| momentum | B, running mean of gradients                                  | (m, n)   |
| step     | rate ||W||_F U V^T / sqrt(min(m, n))                          | (m, n)   |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_MOMENTUM = 0.9
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5, which takes (0, 1] to about 1 in a few iterations
_MAX_SHORT_SIDE = 2048  # of a matrix: beyond it orthogonalization takes longer than the rest of a step
_MIN_NORM = 1e-12  # added to norms that are divided by


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized for matrices.

    Args:
        weights: to train; those with more than one axis are matrices with one row per entry of the first axis.
        lr: learning rate: length of a step relative to the weight, for matrices; that of gradient descent for vectors.

    References:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scaling by the size of the
        weight is that of You, Gitman, Ginsburg 2017, arXiv:1708.03888 (LARS).
    """

    def __init__(self, weights: Iterable[Tensor], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: must be None; the interface of optimizers has it.
        """
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(group["lr"] * self._direction(weight, weight.grad))

    def _direction(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Update the momentum of a weight, and return its step at a learning rate of 1."""
        state: dict[str, Any] = self.state[weight]
        momentum: Tensor = state.setdefault("momentum_buffer", torch.zeros_like(weight))
        if weight.ndim < 2:
            return gradient.add(momentum.mul_(_MOMENTUM).add_(gradient), alpha=_MOMENTUM)
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        lookahead = gradient.lerp(momentum, _MOMENTUM).flatten(1)
        step = lookahead / (lookahead.norm() + _MIN_NORM)
        if min(step.shape) <= _MAX_SHORT_SIDE:
            step = orthogonalize(step) / min(step.shape) ** 0.5
        scaled: Tensor = step * weight.norm()
        return scaled.reshape(weight.shape)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return roughly U V^T of a matrix U S V^T: with singular values from 0.7 to 1.2, except for those near zero.

    Args:
        matrix: shape (m, n), of Frobenius norm 1 at most.
    """
    a, b, c = _QUINTIC
    wide: Tensor = matrix.T if len(matrix) > matrix.shape[1] else matrix
    for _ in range(_ITERATIONS):
        gram: Tensor = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if len(matrix) > matrix.shape[1] else wide
