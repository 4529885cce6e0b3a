"""Chains of vertical, horizontal and 1 x 1 filters on whole kernel columns: as convolutions, and their error.

| code     | meaning                                                    | shape         |
|----------|------------------------------------------------------------|---------------|
| chain.T  | vertical filters, on kernel columns of kh * c numbers      | (d'', kh c)   |
| chain.Q  | horizontal filters, kernel column by kernel column         | (d', kw d'')  |
| chain.P  | the last 1 x 1; None in the spatial decomposition          | (d, d')       |
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.spatial_basis import column_features
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.refine import chain_error


def data_free_factors(
    layer: Layer, chain: FactorMap, responses: LayerSamples, rows: Rows, reason: str | None
) -> FactorChain:
    """Take the chain that the weights alone give as the solution.

    Args:
        layer: the original layer.
        chain: of `truncated_spatial_svd`.
        responses: sampled rows of the layer, which the error is measured on.
        rows: their targets.
        reason: why nothing was solved on data; None where that was asked for.
    """
    error = error_on_patches(chain, responses, rows)
    return FactorChain(spatial_convolutions(layer, chain), SolveErrors(error, error), reason)


def error_on_patches(chain: FactorMap, responses: LayerSamples, rows: Rows, first: int = 0) -> float:
    """Return the relative error after the activation of a chain on whole columns, from row ``first`` on."""
    features = column_features(responses.patches, chain.T, rows.responses, first)
    return chain_error(replace(chain, T=np.eye(len(chain.T))), features, rows.part(slice(first, None)))


def spatial_convolutions(layer: Layer, chain: FactorMap) -> tuple[Convolution, ...]:
    """Return the two or three convolutions of a chain on whole columns; all bias sits in the last."""
    chain = chain.on_host()
    height, width = layer.kernel
    first, second = layer.geometry.by_axis
    vertical = chain.T.reshape(-1, height, layer.channels).transpose(0, 2, 1)[:, :, :, None]
    horizontal = chain.Q.reshape(len(chain.Q), width, -1).transpose(0, 2, 1)[:, :, None, :]
    if chain.P is None:
        return Convolution(vertical, None, first), Convolution(horizontal, chain.offset, second)
    last = Convolution(chain.P[:, :, None, None], chain.offset, pointwise(2))
    return Convolution(vertical, None, first), Convolution(horizontal, None, second), last
