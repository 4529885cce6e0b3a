"""Layers that read the channels which another one leaves out: what these are to them.

They may read the same tensor, or one that the channels are part of, with kernels of another size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Layer


def kept_by(layer: Layer, kept: NDArray[np.int64], other: Layer) -> NDArray[np.int64]:
    """Return the channels of another reader's input that stay.

    Args:
        layer: chooses the channels.
        kept: those of its input that stay.
        other: one of the further readers of its groups.
    """
    gone = [
        np.setdiff1d(np.arange(group.channels), kept - group.start) + group.inputs_of(other.name).start
        for group in layer.read_groups
        if other.name in group.followers
    ]
    return np.setdiff1d(np.arange(other.channels), np.concatenate(gone))


def further_weights(layer: Layer, other: Layer) -> NDArray[np.float64]:
    """Return the weights that another reader has for the inputs of a layer, shape (c * kh * kw, e).

    Where kernels are of one size, they are its own. Otherwise each of its taps is taken for a filter of its own that
    looks at the middle of the layer's kernel, which is right but for how taps make good for each other.
    """
    kernel = layer.weight.shape[2:]
    weight = other.weight.astype(np.float64)
    if other.weight.shape[2:] != kernel:
        taps = np.moveaxis(weight.reshape(*weight.shape[:2], -1), 2, 0).reshape(-1, weight.shape[1])
        weight = np.zeros((*taps.shape, *kernel))
        weight[(..., *(size // 2 for size in kernel))] = taps
    ours = np.zeros((len(weight), layer.channels, *kernel))
    for group in layer.read_groups:
        if other.name in group.followers:
            start = group.inputs_of(other.name).start
            own = slice(group.start, group.start + group.channels)
            ours[:, own] = weight[:, start : start + group.channels]
    return ours.reshape(len(ours), -1).T
