"""Layers made by hand, for tests of what needs no graph."""

from __future__ import annotations

import numpy as np

from onnx_lowrank.activation import relu
from onnx_lowrank.layer import Geometry, Layer


def conv_layer(
    filters: int,
    channels: int,
    kernel: tuple[int, int],
    size: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    name: str = "conv",
) -> Layer:
    """A convolution with "same" padding and random weights over a map of ``size``."""
    generator = np.random.default_rng(filters * 1000 + channels)
    pads = (kernel[0] // 2, kernel[1] // 2)
    return Layer(
        name=name,
        op="Conv",
        weight=generator.normal(size=(filters, channels, *kernel)).astype(np.float32),
        bias=generator.normal(size=filters).astype(np.float32),
        geometry=Geometry(strides, (1, 1), pads + pads),
        activation=relu(),
        input="x",
        response="y",
        residual=None,
        nodes=("y",),
        positions=(size[0] // strides[0], size[1] // strides[1]),
        input_size=size,
    )
