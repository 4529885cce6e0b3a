"""Chains of 1-D convolutions as 2-D ones of height 1: onnxruntime's blocked kernels on the CPU take 2-D ones only.

Only the chain itself is written so, between two Reshapes that move no numbers; all else in the network stays as it is.
Of a vocoder (HiFi-GAN, as in Piper's voices) at half the multiply-adds, onnxruntime 1.32.0 with AVX2, the converted
network took 32.9 ms of each thread's processor time with 1-D chains and 28.5 ms with 2-D ones on one thread, 17.0 and
14.1 ms on two, by the best of many runs.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.layers.factors import Convolution, FactorChain


def is_planar(factors: FactorChain) -> bool:
    """Return whether a chain can be written so: several 1-D convolutions, none of them transposed."""
    several = len(factors.convolutions) > 1
    return several and all(each.weight.ndim == 3 and not each.geometry.transposed for each in factors.convolutions)


def planar_chain(factors: FactorChain) -> FactorChain:
    """Return the same chain with an axis of height 1 before the positions.

    Args:
        factors: a chain that `is_planar`.
    """
    return replace(factors, convolutions=tuple(_planar(each) for each in factors.convolutions))


def _planar(convolution: Convolution) -> Convolution:
    geometry = convolution.geometry
    (before, after) = geometry.pads
    geometry = replace(
        geometry,
        strides=(1, *geometry.strides),
        dilations=(1, *geometry.dilations),
        pads=(0, before, 0, after),
    )
    return replace(convolution, weight=convolution.weight[:, :, None], geometry=geometry)
