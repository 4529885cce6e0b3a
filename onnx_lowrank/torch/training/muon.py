"""Steps that move all directions of a weight matrix alike.

The factors of a converted layer are badly conditioned: gradients live in a few directions, and plain gradient descent
hardly moves the others. So the momentum of every matrix is replaced by the orthogonal matrix next to it, U V^T of its
singular value decomposition, by a Newton-Schulz iteration; a step is as long as the learning rate says, relative to
the matrix. Biases and other vectors go down their gradients.

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
_ROUNDS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5, which takes (0, 1] to about 1 in a few rounds
_LARGEST = 2048  # shorter side of a matrix: beyond it orthogonalizing takes longer than the rest of a step
_TINY = 1e-12


class Orthogonalized(torch.optim.Optimizer):
    """Momentum, made orthogonal where it is that of a matrix (Muon), with Nesterov's look ahead.

    Args:
        weights: to train; of those with more than one axis the first one is taken for rows.
        lr: learning rate: length of a step relative to the weight, for matrices; that of gradient descent for vectors.

    References:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scaling by the size of the
        weight is that of You, Gitman, Ginsburg 2017, arXiv:1708.03888 (LARS).
    """

    def __init__(self, weights: Iterable[Tensor], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step.

        Args:
            closure: None; accelerate passes it.
        """
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(group["lr"] * self._direction(weight, weight.grad))

    def _direction(self, weight: Tensor, slope: Tensor) -> Tensor:
        state: dict[str, Any] = self.state[weight]
        momentum: Tensor = state.setdefault("momentum_buffer", torch.zeros_like(weight))
        if weight.ndim < 2:
            return slope.add(momentum.mul_(_MOMENTUM).add_(slope), alpha=_MOMENTUM)
        momentum.lerp_(slope, 1 - _MOMENTUM)
        ahead = slope.lerp(momentum, _MOMENTUM).flatten(1)
        step = ahead / (ahead.norm() + _TINY)
        if min(step.shape) <= _LARGEST:
            step = orthogonalized(step) / min(step.shape) ** 0.5
        scaled: Tensor = step * weight.norm()
        return scaled.reshape(weight.shape)


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T: singular values between 0.7 and 1.2, those near zero excepted.

    Args:
        matrix: shape (m, n), of Frobenius norm 1 at most.
    """
    a, b, c = _QUINTIC
    flat: Tensor = matrix.T if len(matrix) > matrix.shape[1] else matrix
    for _ in range(_ROUNDS):
        gram: Tensor = flat @ flat.T
        flat = a * flat + (b * gram + c * gram @ gram) @ flat
    return flat.T if len(matrix) > matrix.shape[1] else flat
