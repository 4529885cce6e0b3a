"""Spatial-channel decomposition as in the paper, an ablation: the spatial pair comes from the weights.

    y' = P Q y + offset                      channel decomposition, solved on data
    Q W  ~  sum_j H_j V                      its filters, split by the spatial SVD of their weights
    y'' = P' sum_j H_j V x_j + offset'       the last 1 x 1, solved on data again

| code           | meaning                                | shape            |
|----------------|----------------------------------------|------------------|
| filters        | Q W                                    | (d', c, kh, kw)  |
| basis          | V                                      | (d'', kh c)      |
| H              | kernel column by kernel column         | (d', kw d'')     |
| pair_responses | sum_j H_j V x_j                        | (n, d')          |

Use `onnx_lowrank.solve.spatial_channel`, which weighs the vertical filters and solves all that follows them on data.
"""

from __future__ import annotations

import numpy as np

from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.arrays import like
from onnx_lowrank.linalg.spatial_basis import column_features, horizontal_map, vertical_basis
from onnx_lowrank.solve.channel import input_responses
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.reconstruct import reconstruct
from onnx_lowrank.solve.reduced_rank import RankFactors
from onnx_lowrank.solve.spatial_factors import spatial_convolutions
from onnx_lowrank.solve.truncated_svd import truncated_svd


def solve_as_in_the_paper(layer: Layer, responses: LayerSamples, rows: Rows, spatial: int, channel: int) -> FactorChain:
    """Solve the channel decomposition, split its filters by their weights alone, and solve the last 1 x 1 again.

    Args:
        layer: the original layer.
        responses: its sampled rows.
        rows: their targets.
        spatial: spatial rank d''.
        channel: channel rank d'.

    References:
        Zhang et al. 2015, arXiv:1505.06798, asymmetric (3d).
    """
    rows = rows.of_inputs(input_responses(layer, responses))
    data_free = truncated_svd(layer.weight, layer.bias, channel)
    by_channel = reconstruct(rows, np.eye(layer.filters), data_free)
    first = by_channel.factors.on_host()

    filters = np.einsum("rd,dchw->rchw", first.Q, np.asarray(layer.weight, np.float64), optimize=True)
    basis = vertical_basis(filters, spatial)
    H = horizontal_map(filters, basis).reshape(channel, -1)
    features = column_features(responses.patches, basis, rows.responses)
    pair_responses = features.reshape(len(rows), -1) @ like(H, features).T

    bias = first.offset + first.P @ (first.Q @ np.asarray(layer.bias, np.float64))
    unsolved = RankFactors(first.P, np.eye(channel), bias)
    by_last = reconstruct(rows.of_inputs(pair_responses), first.P, unsolved)
    last = by_last.factors.on_host()
    chain = FactorMap(basis, H, last.P @ last.Q, last.offset)
    return FactorChain(spatial_convolutions(layer, chain), by_last.errors, by_last.reason or by_channel.reason)
