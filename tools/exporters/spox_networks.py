"""Write a small network by spox, node by node: ``python spox_networks.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op

from spectrum import falling

SIZE = 64
_GENERATOR = np.random.default_rng(0)


def convolution(x: spox.Var, filters: int, channels: int, stride: int = 1) -> spox.Var:
    """Return a 3 x 3 convolution with weights as trained ones are."""
    weight, bias = falling(_GENERATOR, (filters, channels, 3, 3)), np.zeros(filters, np.float32)
    return op.conv(x, op.const(weight), op.const(bias), pads=[1, 1, 1, 1], strides=[stride, stride])


def network(images: spox.Var) -> spox.Var:
    """Return the scores: convolutions, a residual sum, and a matrix behind a mean."""
    x = op.relu(convolution(images, 32, 3, 2))
    x = op.relu(op.add(x, convolution(x, 32, 32)))
    x = op.leaky_relu(convolution(x, 64, 32, 2), alpha=0.1)
    x = op.reduce_mean(x, op.const(np.array([2, 3])), keepdims=0)
    return op.gemm(x, op.const(falling(_GENERATOR, (10, 64))), op.const(np.zeros(10, np.float32)), transB=1)


def main(folder: Path) -> None:
    """Write the network into a folder."""
    images = spox.argument(spox.Tensor(np.float32, ("N", 3, SIZE, SIZE)))
    onnx.save(spox.build({"images": images}, {"scores": network(images)}), folder / "plain.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
