"""Networks that find what is in an image or outline it, as papers draw them, their filters close to low rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.helpers import build, filters, normal

Array = NDArray[Any]


class Drawing:
    """A graph that grows line by line: every method adds nodes and returns the name of the tensor they make."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.weights: dict[str, Array] = {}

    def model(self, inputs: str, outputs: str) -> onnx.ModelProto:
        text = "\n".join(self.lines)
        return build(f"g ({inputs}) => ({outputs}) {{ {text} }}", self.weights)

    def node(self, call: str, name: str | None = None) -> str:
        name = name or f"t{len(self.lines)}"
        self.lines.append(f"{name} = {call}")
        return name

    def constant(self, value: Array) -> str:
        name = f"k{len(self.weights)}"
        self.weights[name] = value
        return name

    def plain(self, x: str, c: int, d: int, name: str | None = None) -> str:
        """A 1 x 1 convolution with a bias and nothing behind it."""
        weight, bias = self.constant(_falling(len(self.weights), d, c, 1)), self.constant(0.1 * normal(d, d))
        return self.node(f"Conv ({x}, {weight}, {bias})", name)

    def conv(self, x: str, c: int, d: int, kernel: int = 1, stride: int = 1) -> str:
        """Convolution, BatchNormalization, SiLU; the scale keeps numbers from growing or vanishing on the way."""
        seed, moves = len(self.weights), f"pads = {[kernel // 2] * 4}, strides = [{stride}, {stride}]"
        response = self.node(f"Conv <{moves}> ({x}, {self.constant(_falling(seed, d, c, kernel))})")
        scale, offset = 1.7 + 0.2 * normal(seed, d), 0.3 * normal(seed + 1, d)
        mean, variance = 0.1 * normal(seed + 2, d), 1 + 0.2 * np.abs(normal(seed + 3, d))
        statistics = ", ".join(map(self.constant, (scale, offset, mean, variance)))
        normalized = self.node(f"BatchNormalization ({response}, {statistics})")
        return self.node(f"Mul ({normalized}, {self.node(f'Sigmoid ({normalized})')})")

    def split_block(self, x: str, c: int, d: int) -> str:
        """C2f of YOLOv8: half of the channels goes through a residual block, all stages are put side by side."""
        both, half = self.conv(x, c, d), d // 2
        kept, passed = f"{both}a", f"{both}b"
        self.lines.append(f"{kept}, {passed} = Split <axis = 1> ({both}, {self.constant(np.array([half, half]))})")
        inner = self.conv(self.conv(passed, half, half, 3), half, half, 3)
        summed = self.node(f"Add ({passed}, {inner})")
        return self.conv(self.side_by_side(kept, passed, summed), 3 * half, d)

    def pyramid(self, x: str, c: int) -> str:
        """SPPF: pools of growing reach, one behind the other."""
        pools = [self.conv(x, c, c // 2)]
        for _ in range(3):
            pools.append(self.node(f"MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> ({pools[-1]})"))
        return self.conv(self.side_by_side(*pools), 2 * c, c)

    def halved(self, x: str) -> str:
        return self.node(f"MaxPool <kernel_shape = [2, 2], strides = [2, 2]> ({x})")

    def enlarged(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        options = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
        return self.node(f"Resize <{options}> ({x}, , {scales})")

    def unpooled(self, x: str, c: int, d: int) -> str:
        weight = 2 * _falling(len(self.weights), d, c, 2).swapaxes(0, 1)  # an output reads a quarter of a filter
        return self.node(f"ConvTranspose <strides = [2, 2]> ({x}, {self.constant(weight)})")

    def side_by_side(self, *tensors: str) -> str:
        return self.node(f"Concat <axis = 1> ({', '.join(tensors)})")


def detector() -> onnx.ModelProto:
    """As YOLOv8: backbone, a neck down and up again, a head for each of three strides; open batch, height and width."""
    draw = Drawing()
    x4 = draw.conv(draw.conv("x", 3, 16, 3, 2), 16, 32, 3, 2)
    x8 = draw.split_block(draw.conv(draw.split_block(x4, 32, 32), 32, 48, 3, 2), 48, 48)
    x16 = draw.split_block(draw.conv(x8, 48, 64, 3, 2), 64, 64)
    x32 = draw.pyramid(draw.split_block(draw.conv(x16, 64, 96, 3, 2), 96, 96), 96)
    down16 = draw.split_block(draw.side_by_side(draw.enlarged(x32), x16), 160, 64)
    out8 = draw.split_block(draw.side_by_side(draw.enlarged(down16), x8), 112, 48)
    out16 = draw.split_block(draw.side_by_side(draw.conv(out8, 48, 64, 3, 2), down16), 128, 64)
    out32 = draw.split_block(draw.side_by_side(draw.conv(out16, 64, 96, 3, 2), x32), 192, 96)
    for stride, (tensor, channels) in {8: (out8, 48), 16: (out16, 64), 32: (out32, 96)}.items():
        boxes = draw.plain(draw.conv(tensor, channels, 32, 3), 32, 20)
        rows = draw.node(f"Reshape ({boxes}, {draw.constant(np.array([0, 20, -1]))})")
        draw.node(f"Transpose <perm = [0, 2, 1]> ({rows})", f"boxes{stride}")
    outputs = ", ".join(f"float[N, boxes_{stride}, 20] boxes{stride}" for stride in (8, 16, 32))
    return draw.model("float[N, 3, H, W] x", outputs)


def outliner() -> onnx.ModelProto:
    """As a U-Net: maps that shrink, are enlarged by transposed convolutions, and meet those of before."""
    draw = Drawing()
    x1 = draw.conv(draw.conv("x", 3, 24, 3), 24, 24, 3)
    x2 = draw.conv(draw.conv(draw.halved(x1), 24, 48, 3), 48, 48, 3)
    x4 = draw.conv(draw.conv(draw.halved(x2), 48, 96, 3), 96, 96, 3)
    up2 = draw.unpooled(x4, 96, 48)
    y2 = draw.conv(draw.conv(draw.side_by_side(up2, x2), 96, 48, 3), 48, 48, 3)
    up1 = draw.unpooled(y2, 48, 24)
    y1 = draw.conv(draw.conv(draw.side_by_side(up1, x1), 48, 24, 3), 24, 24, 3)
    draw.plain(y1, 24, 1, name="mask")
    return draw.model("float[N, 3, H, W] x", "float[N, 1, H, W] mask")


def channels_last() -> onnx.ModelProto:
    """As tf2onnx writes it: channels come last outside, and second inside."""
    draw = Drawing()
    first = draw.node("Transpose <perm = [0, 3, 1, 2]> (x)")
    x = draw.conv(draw.conv(draw.conv(first, 3, 24, 3), 24, 48, 3, 2), 48, 48, 3)
    draw.node(f"Transpose <perm = [0, 2, 3, 1]> ({draw.plain(x, 48, 8)})", "y")
    return draw.model("float[N, H, W, 3] x", "float[N, A, B, 8] y")


def _falling(seed: int, d: int, c: int, kernel: int) -> Array:
    """Filters that are close to combinations of a few, keeping the variance of their input."""
    few = max(4, min(d, c * kernel) // 4)
    mixing = filters(seed, d, few, 1, 1)[:, :, 0, 0]
    basis = filters(seed + 1, few, c, kernel, kernel)
    return np.einsum("df,fchw->dchw", mixing, basis) + 0.1 * filters(seed + 2, d, c, kernel, kernel)
