"""The operators that have weights, as functions of them, so that weights keep the names and shapes of the graph.

Each operation takes the inputs of the operator in order, the optional ones last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import torch
import torch.nn.functional as F  # noqa: N812  (the customary name)
from torch import Tensor

from onnx_lowrank.torch.module.attributes import attributes

Operation = Callable[..., Tensor | Sequence[Tensor]]
Pads = list[tuple[int, int]]  # before and after, for each spatial axis


def convolution(node: onnx.NodeProto) -> Operation:
    """Return the operation of Conv in any number of dimensions."""
    given = attributes(node)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axes = x.ndim - 2
        strides, dilations = given.get("strides", [1] * axes), given.get("dilations", [1] * axes)
        extents = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
        pads = _pads(given, axes, [_total_padding(*sizes) for sizes in zip(x.shape[2:], extents, strides, strict=True)])
        if any(before != after for before, after in pads):
            x, pads = F.pad(x, _last_axis_first(pads)), [(0, 0)] * axes
        padding = [before for before, _ in pads]
        return torch.convolution(
            x, weight, bias, strides, padding, dilations, False, [0] * axes, given.get("group", 1)
        )  # fmt: skip

    return run


def transposed_convolution(node: onnx.NodeProto) -> Operation:
    """Return the operation of ConvTranspose in any number of dimensions."""
    given = attributes(node)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axes = x.ndim - 2
        strides, dilations = given.get("strides", [1] * axes), given.get("dilations", [1] * axes)
        extra = given.get("output_padding", [0] * axes)
        whole = torch.convolution(
            x, weight, bias, strides, [0] * axes, dilations, True, extra, given.get("group", 1)
        )  # fmt: skip
        output_shape = given.get("output_shape", [size * step for size, step in zip(x.shape[2:], strides, strict=True)])
        surplus = [size - goal for size, goal in zip(whole.shape[2:], output_shape[-axes:], strict=True)]
        automatic = given
        if "output_shape" in given and given.get("auto_pad") != "SAME_UPPER":
            automatic = {"auto_pad": "SAME_LOWER"}
        pads = _pads(automatic, axes, surplus)
        return F.pad(whole, [-size for size in _last_axis_first(pads)])

    return run


def matrix_product(node: onnx.NodeProto) -> Operation:
    """Return the operation of Gemm."""
    given = attributes(node)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = (a.T if given.get("transA") else a), (b.T if given.get("transB") else b)
        product: Tensor = given.get("alpha", 1.0) * (a @ b)
        return product if c is None else product + given.get("beta", 1.0) * c

    return run


def batch_normalization(node: onnx.NodeProto) -> Operation:
    """Return the operation of BatchNormalization at inference, with the statistics in the graph."""
    epsilon = attributes(node).get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)

    return run


def instance_normalization(node: onnx.NodeProto) -> Operation:
    """Return the operation of InstanceNormalization."""
    epsilon = attributes(node).get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        axes, by_channel = tuple(range(2, x.ndim)), [1, -1, *[1] * (x.ndim - 2)]
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + epsilon) * scale.reshape(by_channel) + bias.reshape(by_channel)

    return run


def hard_sigmoid(node: onnx.NodeProto) -> Operation:
    """Return the operation of HardSigmoid; onnx2pytorch rounds slopes near 1/6 to 1/6."""
    given = attributes(node)
    alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _total_padding(size: int, extent: int, stride: int) -> int:
    """Return the padding of an axis with which every ``stride``-th position has an output."""
    return max(0, (-(-size // stride) - 1) * stride + extent - size)


def _pads(given: dict[str, object], axes: int, total: Sequence[int]) -> Pads:
    """Return the padding before and after each axis; automatic padding splits ``total``."""
    kind = given.get("auto_pad", "NOTSET")
    if kind in {"SAME_UPPER", "SAME_LOWER"}:
        small, large = [size // 2 for size in total], [size - size // 2 for size in total]
        return list(zip(small, large, strict=True) if kind == "SAME_UPPER" else zip(large, small, strict=True))
    pads = given.get("pads", [0] * (2 * axes)) if kind == "NOTSET" else [0] * (2 * axes)
    assert isinstance(pads, list)
    return list(zip(pads[:axes], pads[axes:], strict=True))


def _last_axis_first(pads: Pads) -> list[int]:
    """Flatten pads in PyTorch's order, the last axis first."""
    return [size for pair in reversed(pads) for size in pair]


LAYERS: dict[str, Callable[[onnx.NodeProto], Operation]] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": matrix_product,
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "HardSigmoid": hard_sigmoid,
}
