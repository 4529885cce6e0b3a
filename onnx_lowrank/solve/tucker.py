"""Input-side and Tucker-2 decomposition: 1 x 1, then kh x kw, then (Tucker-2) 1 x 1.

    y' = P sum_j Q_j T x_j + offset          x_j: point j of a patch, of c numbers; j runs over all kh * kw points

T mixes input channels and Q is the kh x kw convolution of the mixtures. It is the spatial decomposition of the layer
with all points of its kernel in one row (`kernel_row`): a column of that kernel is one point. So it is solved as that
one is, filters T for the points that really arrive, one map behind them, and all factors refined together. Nothing in
front of the kh x kw convolution has a bias, so that zeros around the image stay zeros.

| code     | meaning                                    | shape                      |
|----------|--------------------------------------------|----------------------------|
| first    | T, the 1 x 1 convolution                   | (d_in, c, 1, 1)            |
| middle   | Q, with the layer's strides and pads       | (d' or d, d_in, kh, kw)    |
| last     | P; none in the input-side decomposition    | (d, d', 1, 1)              |

Use it where runtimes are fast at kh x kw kernels and slow at kh x 1 and 1 x kw ones, and for 1-D and 3-D kernels; use
the spatial-channel decomposition where multiply-adds are all that counts.

References:
    Kim et al. 2016, arXiv:1511.06530 (Tucker-2 of the weights); solving it on responses is ours.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.layers.factors import Convolution, FactorChain
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.solve.kernel_row import from_a_row, layer_in_a_row, samples_in_a_row
from onnx_lowrank.solve.spatial_channel import solve_spatial


def solve_tucker(
    layer: Layer,
    responses: LayerSamples,
    inputs: int,
    channel: int | None,
    *,
    solver: str = "auto",
    refinement: str = "fast",
) -> FactorChain:
    """Solve a layer as 1 x 1 with ``inputs`` filters, kh x kw, and 1 x 1 where there is a channel rank.

    Args:
        layer: the original layer, with a kernel of any number of axes.
        responses: its sampled rows.
        inputs: input rank d_in.
        channel: channel rank d'; None for the input-side decomposition, without a second 1 x 1.
        solver: see `solve_spatial`.
        refinement: ``none``, ``fast`` or ``full``; of the solver ``auto`` only.

    Returns:
        The convolutions, their errors, and the reason where the data-free factors were taken.
    """
    chain = solve_spatial(
        layer_in_a_row(layer), samples_in_a_row(responses), inputs, channel, solver=solver, refinement=refinement
    )
    axes = len(layer.kernel)
    first, middle, *last = chain.convolutions
    convolutions = (
        _pointwise(first, axes),
        Convolution(from_a_row(middle.weight, layer.kernel), middle.bias, layer.geometry),
        *(_pointwise(each, axes) for each in last),
    )
    return replace(chain, convolutions=convolutions)


def _pointwise(convolution: Convolution, axes: int) -> Convolution:
    """Return a 1 x 1 convolution with another number of kernel axes."""
    weight = convolution.weight
    return Convolution(weight.reshape(*weight.shape[:2], *[1] * axes), convolution.bias, pointwise(axes))
