"""Small ONNX graphs, and plain onnxruntime as the oracle for what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.layer import Layer, SkippedLayer
from onnx_lowrank.load import find_layers, weighted_tensors
from onnx_lowrank.runtime import Provider, observe_shapes

Array = NDArray[Any]
Feeds = dict[str, Array]

CPU = Provider("cpu", threads=1)


def build(graph: str, weights: Mapping[str, Array] | None = None, *, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """A model from the text of its graph, as `onnx.parser` reads it, and its initializers."""
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{graph}')
    add_initializers(model, weights or {})
    return model


def add_initializers(model: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Give a model more initializers; before IR version 4 they are graph inputs too."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    model.graph.initializer.extend(tensors)
    if model.ir_version < 4:
        values = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
        model.graph.input.extend(values)


def normal(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def filters(seed: int, d: int, c: int, kh: int, kw: int, dtype: Any = np.float32) -> Array:
    """Weights of a convolution that keeps the variance of its input."""
    return (normal(seed, d, c, kh, kw) / np.sqrt(c * kh * kw)).astype(dtype)


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], tensors: Sequence[str] | None = None) -> Feeds:
    """What onnxruntime computes, without optimizations: the outputs, or any inner tensors by name."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    if tensors is not None:
        have = {value.name for value in shown.graph.output}
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in have)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()] if tensors is None else list(tensors)
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def find(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> tuple[list[Layer], list[SkippedLayer]]:
    """Layers of a model and those that stay, sized by one batch."""
    samples = len(next(iter(feeds.values())))
    return find_layers(model, observe_shapes(model, feeds, weighted_tensors(model), CPU), samples)


def relative(wanted: Array, found: Array) -> float:
    """``||wanted - found|| / ||wanted||`` in float64."""
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    return float(np.linalg.norm(wanted - found) / np.linalg.norm(wanted))


def sampled(tensor: Array, positions: Array) -> Array:
    """Rows of a response (N, d, height, width) at flat positions (N, P), by plain indexing: (N * P, d)."""
    flat = tensor.reshape(*tensor.shape[:2], -1)
    rows = [flat[image][:, place].T for image, place in enumerate(positions)]
    return np.concatenate(rows)


def applied(layer: Layer, patches: Array) -> Array:
    """The layer's filters and bias on patches, in the model's own type."""
    wide = patches.astype(np.float64) @ layer.weight.reshape(layer.filters, -1).T.astype(np.float64) + layer.bias
    return wide.astype(patches.dtype)
