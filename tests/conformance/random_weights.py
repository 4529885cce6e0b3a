"""The networks that come with the onnx package: their graphs as they are, with random weights and narrower layers.

The package itself has `ConstantOfShape` in the place of all but the smallest weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.backend.test
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.helpers import add_initializers

Array = NDArray[Any]
Use: TypeAlias = tuple[str, int]  # an operator and the place among its inputs

DATA = Path(onnx.backend.test.__file__).parent / "data"

_FILTERS: set[Use] = {("Conv", 1), ("Gemm", 1)}
_SCALES: set[Use] = {("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)}
_SHAPE: Use = ("Reshape", 1)
_AS_THEY_ARE = {1, 3, 1000}  # samples, colours, classes
_HIDDEN, _FEWER_HIDDEN = 4096, 512  # numbers between fully connected layers, most of all weights
_DECAY = 8.0


def light_network(name: str, divisor: int) -> onnx.ModelProto:
    """One of the package's ``light_*.onnx`` with random weights.

    Args:
        name: ``resnet50``, for example.
        divisor: how much narrower all layers between image and classes are made.
    """
    model = onnx.load(DATA / "light" / f"light_{name}.onnx")
    graph = model.graph
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {tensor: array.shape for tensor, array in given.items()}
    constants = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    shapes |= {node.output[0]: given[node.input[0]].tolist() for node in constants}
    images = [value for value in graph.input if value.name not in given]
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    if nodes[-1].op_type == "Softmax":  # all or nothing where scores are random
        graph.output[0].name = nodes.pop().input[0]
    generator, weights = np.random.default_rng(0), {}
    for tensor, use in _uses(nodes).items():
        if use == _SHAPE:
            weights[tensor] = np.array(_narrowed(given[tensor], divisor))
        elif tensor in shapes:
            shape = shapes[tensor]
            channels = 2 if use == ("Conv", 1) else len(shape)  # the other axes are the kernel's
            weights[tensor] = _random(generator, (*_narrowed(shape[:channels], divisor), *shape[channels:]), use)
    for field, kept in ((graph.node, nodes), (graph.input, images), (graph.initializer, [])):
        del field[:]
        field.extend(kept)
    add_initializers(model, weights)
    return model


def _uses(nodes: Sequence[onnx.NodeProto]) -> dict[str, Use]:
    """What every tensor is to its reader; one that is only brought into shape is that to the reader behind."""
    uses: dict[str, Use] = {}
    for node in reversed(nodes):
        for place, tensor in enumerate(node.input):
            passed_on = node.op_type in {"Reshape", "Unsqueeze"} and place == 0
            uses[tensor] = uses[node.output[0]] if passed_on else (node.op_type, place)
    return uses


def _narrowed(sizes: Iterable[int], divisor: int) -> list[int]:
    fewer = {size: size for size in _AS_THEY_ARE} | {_HIDDEN: _FEWER_HIDDEN}
    return [fewer.get(size, int(size) // divisor) for size in sizes]


def _random(generator: np.random.Generator, shape: Sequence[int], use: Use) -> Array:
    """Scales near 1, offsets near 0, filters that keep the variance of what went through a ReLU (He et al. 2015).

    Filters are mixed from as many others, of which each counts less than the one before: few do most of the work.
    """
    if use in _SCALES:
        return (1 + 0.1 * np.abs(generator.standard_normal(shape))).astype(np.float32)
    if use not in _FILTERS:
        return (0.1 * generator.standard_normal(shape)).astype(np.float32)
    reads = prod(shape[1:]) if use[0] == "Conv" else shape[-1]
    count = prod(shape) // reads
    shares = np.exp(-_DECAY * np.arange(count) / count)
    mixing = generator.standard_normal((count, count)) * shares / np.linalg.norm(shares)
    filters = mixing.astype(np.float32) @ generator.standard_normal((count, reads), np.float32)
    return (filters * np.float32(np.sqrt(2 / reads))).reshape(shape)
