"""A small network with what real ones have, and data for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.helpers import build, filters, normal

Array = NDArray[Any]


def images(count: int = 60, size: int = 12, channels: int = 3, seed: int = 0) -> Array:
    """Smooth random maps: neighbouring pixels are alike, as in photographs."""
    noise = normal(seed, count, channels, size + 4, size + 4)
    windows = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), axis=(2, 3))
    return (windows.mean(axis=(-2, -1)) * 4).astype(np.float32)


def network(batch: str = "N", seed: int = 0) -> onnx.ModelProto:
    """Three convolutions, the second with BatchNormalization, the third closing a residual block."""
    graph = f"""g (float[{batch}, 3, 12, 12] x) => (float[{batch}, 5] scores) {{
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        n2 = BatchNormalization (c2, gamma, beta, mean, variance)
        r2 = Relu (n2)
        c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3, b3)
        s3 = Add (c3, r1)
        r3 = Relu (s3)
        pool = GlobalAveragePool (r3)
        flat = Flatten (pool)
        scores = Gemm (flat, f)
    }}"""
    weights = {
        "w1": filters(seed, 16, 3, 3, 3),
        "b1": normal(seed + 1, 16),
        "w2": filters(seed + 2, 16, 16, 3, 3),
        "gamma": 1 + 0.2 * normal(seed + 3, 16),
        "beta": normal(seed + 4, 16),
        "mean": 0.1 * normal(seed + 5, 16),
        "variance": 1 + 0.3 * np.abs(normal(seed + 6, 16)),
        "w3": filters(seed + 7, 16, 16, 3, 3),
        "b3": normal(seed + 8, 16),
        "f": normal(seed + 9, 16, 5),
    }
    return build(graph, weights)
