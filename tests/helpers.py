"""Small ONNX graphs, and plain onnxruntime as the oracle for what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from threadpoolctl import threadpool_info

from onnx_lowrank.calibrate import preset
from onnx_lowrank.calibrate.calibration import CalibrationSet, calibration_set
from onnx_lowrank.graph import counted_tensors, find_layers, weighted_tensors
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.runtime.backends import Runtime
from onnx_lowrank.runtime.network import open_network
from onnx_lowrank.runtime.observed_shapes import observe_shapes
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.timing import Pace, Timing
from onnx_lowrank.settings import Settings

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
    tensors = list(dict.fromkeys([*weighted_tensors(model), *counted_tensors(model)]))
    return find_layers(model, observe_shapes(model, feeds, tensors, CPU), samples)


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


# Clocks that always say the same


@dataclass(frozen=True)
class Work:
    """One convolution as a made-up clock sees it."""

    weight: tuple[int, ...]
    positions: int
    group: int

    @property
    def macs(self) -> int:
        return self.positions * prod(self.weight)

    def blocked(self, block: int) -> int:
        """Multiply-adds where kernels work on so many channels at a time."""
        d, c, *kernel = self.weight
        return self.positions * prod(kernel) * prod(-(-size // block) * block for size in (d, c))


def work(model: onnx.ModelProto | Path) -> list[Work]:
    """The convolutions of a model whose maps have sizes that onnx can infer."""
    loaded = onnx.load(model) if isinstance(model, Path) else model
    inferred = onnx.shape_inference.infer_shapes(loaded, strict_mode=True, data_prop=True)
    weights = {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    values = [*inferred.graph.value_info, *inferred.graph.output]
    sizes = {each.name: [size.dim_value for size in each.type.tensor_type.shape.dim] for each in values}
    found = []
    for node in inferred.graph.node:
        if node.op_type == "Conv":
            group = next((each.i for each in node.attribute if each.name == "group"), 1)
            found.append(Work(weights[node.input[1]], prod(sizes[node.output[0]][2:]), group))
    return found


def is_one_layer(model: onnx.ModelProto | Path) -> bool:
    """Whether this is a layer timed by itself."""
    return isinstance(model, onnx.ModelProto) and model.graph.name == "layer"


@dataclass
class MadeUpClock:
    """Takes the place of `time_in_turns`: milliseconds as a function of a model, and what was timed.

    Attributes:
        milliseconds: of a model.
        layers: models of single layers, in the order they were timed.
        networks: the networks that were timed together, in that order.
        feeds: what each of them was fed.
    """

    milliseconds: Callable[[onnx.ModelProto | Path], float]
    layers: list[onnx.ModelProto] = field(default_factory=list)
    networks: list[list[onnx.ModelProto | Path]] = field(default_factory=list)
    feeds: list[list[Feeds]] = field(default_factory=list)

    def __call__(
        self,
        models: Sequence[Any],
        feeds: Sequence[Feeds],
        runtime: Runtime,
        pace: Pace,
        between: Callable[[], None] = lambda: None,
    ) -> list[Timing]:
        between()
        assert runtime.name == "onnxruntime"
        assert pace.rounds >= 1
        assert len(models) == len(feeds)
        if is_one_layer(models[0]):
            self.layers += models
        else:
            self.networks.append(list(models))
            self.feeds.append(list(feeds))
        return [Timing(((self.milliseconds(model),),) * pace.rounds) for model in models]


def set_clock(
    monkeypatch: pytest.MonkeyPatch, cache: Path, milliseconds: Callable[[onnx.ModelProto | Path], float]
) -> MadeUpClock:
    """Have conversions measure with a made-up clock, and remember what it says in a cache of its own.

    Kernels take 8 channels at a time, as without AVX-512: with 16, the smaller ranks of small layers are no faster.
    """
    clock = MadeUpClock(milliseconds)
    monkeypatch.setattr("onnx_lowrank.runtime.device._cpuinfo", lambda: "flags : avx2")
    for module in ("runtime.layer_latency", "runtime.latency"):
        monkeypatch.setattr(f"onnx_lowrank.{module}.time_in_turns", clock)
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.user_cache_path", lambda name: cache / name)
    return clock


def samples_of(model: onnx.ModelProto | str, data: Any, **settings: Any) -> CalibrationSet:
    """The samples that a conversion with these settings is calibrated, verified and searched with."""
    return calibration_set(open_network(model, CPU, {}), data, preset("zero-one"), Settings(**settings))


def plain_network(convolutions: int = 5, channels: int = 32, size: int = 8) -> onnx.ModelProto:
    """Convolutions c0, c1, ... of filters that are close to combinations of a few, with nothing to stay but a pool."""
    lines, weights, tensor = [], {}, "x"
    for number in range(convolutions):
        lines.append(f"c{number} = Conv<pads=[1,1,1,1]>({tensor}, w{number})  r{number} = Relu(c{number})")
        tensor, c = f"r{number}", 3 if number == 0 else channels
        few, mixing = filters(number, channels // 4, c, 3, 3), filters(number + 50, channels, channels // 4, 1, 1)
        weights[f"w{number}"] = np.einsum("df,fchw->dchw", mixing[..., 0, 0], few) + 0.1 * filters(
            number + 90, channels, c, 3, 3
        )
    lines.append(f"y = GlobalAveragePool({tensor})")
    text = "\n".join(lines)
    return build(f"g (float[N,3,{size},{size}] x) => (float[N,{channels},1,1] y) {{ {text} }}", weights)


def blas_threads() -> int:
    """Return how many threads the linear algebra uses now."""
    return max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
