"""How much errors in each channel count: more in those that the outputs of the network feel more.

    sum_j  w_j  E (r(y_j) - r(y'_j))^2,        w_j = E (dL / da_j)^2,   a = r(y)

with L what the outputs lose: where they are scores, w is the diagonal of the Fisher matrix, see
`onnx_lowrank.torch.sensitivity`. Gradients of a few samples are noisy, so logarithms of the weights are shrunk toward
their mean by the share r of their variance that two halves of the samples have in common. The weights go into the
units that a layer's responses are counted in, rather than into every solver: ``s_j = (w_j / mean)^(r / 2)``, with the
geometric mean of the layer. In these units all errors count alike, so that the choice of ranks and the solvers know
nothing of it; the last factor brings what they make back to the units of the network.

| code    | meaning                                        | shape  |
|---------|------------------------------------------------|--------|
| squares | w of two halves of the samples, in any unit    | (2, d) |
| scale   | s                                              | (d,)   |

References:
    Amari 1998, Natural gradient works efficiently in learning; Theis et al. 2018, arXiv:1801.05787 (Fisher pruning).
    Spearman 1910, Brown 1910 (reliability of two halves).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import scaled
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.arrays import like

_LEAST = 1e-3  # of the mean weight, added to all: no channel is worth nothing
_MAX_SCALE = 8.0  # and its inverse: a larger ratio says more about the few samples than about the channel


@dataclass(frozen=True, eq=False)
class OutputWeights:
    """Units in which the channels of responses are counted.

    Attributes:
        scales: s by layer name, shape (d,); layers without one have their channels counted alike.
    """

    scales: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether any layer has them."""
        return bool(self.scales)

    @staticmethod
    def of_squares(squares: Mapping[str, NDArray[np.float64]]) -> OutputWeights:
        """Build the units from mean squares of gradients.

        Args:
            squares: w of two halves of the samples by layer name, shape (2, d); those that are all 0, not finite, or
                nothing but noise, are left out.
        """
        scales = {name: _scale(w) for name, w in squares.items() if np.isfinite(w).all() and w.any(axis=1).all()}
        return OutputWeights({name: scale for name, scale in scales.items() if np.ptp(scale) > 0})

    def layer(self, layer: Layer) -> Layer:
        """Return a layer with its responses in these units."""
        scale = self.scales.get(layer.name)
        if scale is None:
            return layer
        weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        return replace(layer, weight=weight, bias=layer.bias * scale, activation=scaled(layer.activation, scale))

    def targets(self, layer: Layer, targets: TargetResponses) -> TargetResponses:
        """Return responses of a layer in these units."""
        scale = self.scales.get(layer.name)
        if scale is None:
            return targets
        scale = like(scale, targets.responses)
        residual = None if targets.residual is None else targets.residual * scale
        return TargetResponses(targets.responses * scale, residual, targets.probe)

    def chain(self, layer: Layer, chain: FactorChain) -> FactorChain:
        """Return the factors of a layer in the units of the network, given those in these units."""
        scale = self.scales.get(layer.name)
        if scale is None:
            return chain
        *others, last = chain.convolutions
        weight = last.weight / scale.reshape(-1, *[1] * (last.weight.ndim - 1))
        last = replace(last, weight=weight, bias=None if last.bias is None else last.bias / scale)
        return replace(chain, convolutions=(*others, last))


def _scale(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return s, shape (d,): 1 for all channels where both halves have nothing in common."""
    relative = squares / squares.mean(axis=1, keepdims=True)
    logarithms = np.log(relative + _LEAST)
    both = logarithms.mean(axis=0) - logarithms.mean()
    bounded: NDArray[np.float64] = np.exp(0.5 * _shared(logarithms) * both).clip(1 / _MAX_SCALE, _MAX_SCALE)
    return bounded


def _shared(halves: NDArray[np.float64]) -> float:
    """Return the share of the variance of the mean of two halves, shape (2, d), that is no noise (Spearman-Brown)."""
    centred = halves - halves.mean(axis=1, keepdims=True)
    size = float(np.sqrt(np.prod(np.sum(centred**2, axis=1))))
    correlation = max(0.0, float(centred[0] @ centred[1])) / size if size else 0.0
    return 2 * correlation / (1 + correlation)


ALIKE = OutputWeights()  # all channels count alike
