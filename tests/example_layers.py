"""Layers made by hand, for tests of what needs no graph."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from onnx_lowrank.layers.activation import relu
from onnx_lowrank.layers.layer import Geometry, Layer


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


@st.composite
def conv_geometries(draw: st.DrawFn) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """Attributes of a Conv as text, its kernel, and the size of a map that it fits."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, strides = draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(pair)
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    place = draw(st.sampled_from(["pads", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    # onnxruntime has no kernel for SAME with dilations.
    dilations = (1, 1) if place.startswith("SAME") else draw(pair)
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4)) if place == "pads" else (0, 0, 0, 0)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if not place.startswith("SAME"):
        assume(all(size[axis] + pads[axis] + pads[axis + 2] >= reach[axis] for axis in (0, 1)))
    padding = f"pads={list(pads)}" if place == "pads" else f'auto_pad="{place}"'
    return f"{padding}, strides={list(strides)}, dilations={list(dilations)}", kernel, size


@st.composite
def transposed_geometries(draw: st.DrawFn) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """Attributes of a ConvTranspose as text, its kernel, and the size of a map that it fits."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, strides = draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(pair)
    size, dilations = draw(st.tuples(st.integers(1, 6), st.integers(1, 6))), draw(pair)
    more = tuple(draw(st.integers(0, stride - 1)) for stride in strides)  # onnxruntime takes no more
    place = draw(st.sampled_from(["pads", "output_shape", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    numbers = zip(size, strides, kernel, dilations, more, strict=True)
    whole = [(n - 1) * stride + (k - 1) * step + 1 + added for n, stride, k, step, added in numbers]
    padding = f'auto_pad="{place}"'
    if place == "pads":
        pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
        assume(all(whole[axis] > pads[axis] + pads[axis + 2] for axis in (0, 1)))
        padding = f"pads={list(pads)}"
    if place == "output_shape":
        cut = [draw(st.integers(0, min(3, each - 1))) for each in whole]
        padding = f"output_shape={[each - less for each, less in zip(whole, cut, strict=True)]}"
        padding += draw(st.sampled_from(["", ', auto_pad="SAME_UPPER"', ', auto_pad="SAME_LOWER"']))
    given = f"strides={list(strides)}, dilations={list(dilations)}, output_padding={list(more)}"
    return f"{padding}, {given}", kernel, size
