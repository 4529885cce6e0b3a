"""Measured latency of models: bench()."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.device import device_name
from onnx_lowrank.runtime.latency import is_steady
from onnx_lowrank.runtime.library import version
from onnx_lowrank.runtime.network import Network, open_networks
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.runtime.timing import Pace, Timing, time_in_turns
from onnx_lowrank.settings import Constants


@dataclass(frozen=True)
class ModelTiming:
    """One model of a benchmark.

    Attributes:
        path: of the model, or ``<model>`` for one in memory.
        inputs: shape by input name.
        timing: all its runs.
        ratio_to_first: how many times as fast as the first model: the ratio of the medians.
        interval: bounds of that ratio, see `Timing.speedup_interval`; None after a single round.
    """

    path: str
    inputs: Mapping[str, tuple[int, ...]]
    timing: Timing
    ratio_to_first: float
    interval: tuple[float, float] | None = None

    @property
    def steady(self) -> bool:
        """Whether the bounds are close enough to name one ratio; not after a single round."""
        return self.interval is not None and is_steady(self.interval)

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``models`` in ``bench --json``."""
        return {
            "path": self.path,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "median_ms": self.timing.median_ms,
            "p10_ms": self.timing.percentile_ms(10),
            "p90_ms": self.timing.percentile_ms(90),
            "runs": self.timing.runs,
            "ratio_to_first": self.ratio_to_first,
            "interval": None if self.interval is None else list(self.interval),
            "steady": self.steady,
        }


@dataclass(frozen=True)
class Benchmark:
    """Latency of models, measured in turns.

    Attributes:
        provider: where they ran.
        device: its name.
        models: in the order given.
    """

    provider: Provider
    device: str
    models: tuple[ModelTiming, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``bench --json``."""
        return {
            "provider": self.provider.name,
            "device": self.device,
            "threads": self.provider.threads or None,
            "onnxruntime": version(),
            "models": [model.to_dict() for model in self.models],
        }


def bench(
    models: Sequence[str | Path | onnx.ModelProto],
    *,
    provider: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    constant_inputs: Constants | None = None,
    pace: Pace | None = None,
    samples_axis: Mapping[str, int] | None = None,
) -> Benchmark:
    """Time models in turns, with one session alive at a time and inputs and outputs bound where they run.

    Args:
        models: paths or models.
        provider: where they run.
        threads: of onnxruntime; None for its own choice.
        batch_size: samples per run, where the model leaves that open; None for one.
        input_shapes: shape by input name, where a model leaves axes open; its first axis is the batch size too.
        constant_inputs: by name of the inputs that are no noise: numbers, an array or its file.
        pace: how much is measured.
        samples_axis: axis that counts samples by input name, where it is not the first one.

    Returns:
        Median and percentiles of each model, and how many times as fast as the first it is.

    Raises:
        ModelError: a model cannot be read or run, or an axis is open.
        MissingDependencyError: the provider is not there or does not start.
        ValueError: no models.
    """
    if not models:
        raise ValueError("bench: no models, wanted at least one")
    where, shapes = choose_provider(provider, threads), input_shapes or {}
    networks = _with_shapes(open_networks(models, where, {}, constant_inputs or {}, samples_axis or {}), shapes)
    feeds = [_feeds(network, shapes, batch_size) for network in networks]
    timings = time_in_turns([network.model for network in networks], feeds, OnnxRuntime(where), pace or Pace())
    found = []
    for network, mine, timing in zip(networks, feeds, timings, strict=True):
        inputs = {name: values.shape for name, values in mine.items()}
        interval = timings[0].speedup_interval(timing) if len(timing.rounds) > 1 else None
        found.append(ModelTiming(network.name, inputs, timing, timings[0].speedup(timing), interval))
    return Benchmark(where, device_name(where), tuple(found))


def _with_shapes(networks: Sequence[Network], shapes: Mapping[str, tuple[int, ...]]) -> list[Network]:
    """Every network with the shapes of its own inputs; a name that none has is for the first one to complain about."""
    known = {spec.name for network in networks for spec in network.inputs}
    nobodys = {name: shape for name, shape in shapes.items() if name and name not in known}
    networks = [networks[0].with_shapes(nobodys), *networks[1:]]
    shaped = []
    for network in networks:
        own = {"", *(spec.name for spec in network.inputs)} & shapes.keys()
        shaped.append(network.with_shapes({name: shapes[name] for name in own}))
    return shaped


def _feeds(network: Network, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> dict[str, NDArray[Any]]:
    """One batch of noise, zeros where the input takes no fractions; all of the size that is wanted where it is open."""
    generator = np.random.default_rng(0)
    first = {spec.name: spec.samples_first for spec in network.sampled}
    given = [first.get(name, tuple)(tuple(shape))[0] for name, shape in shapes.items() if shape]
    wanted = batch_size or (given[0] if given else 1)
    feeds = {}
    known = network.zeros()
    for spec in network.sampled:
        zeros = known[spec.name]
        count = wanted if spec.shape and spec.shape[0] is None else len(zeros) if zeros.ndim else 0
        shape = (count, *zeros.shape[1:]) if zeros.ndim else ()
        fractions = np.issubdtype(spec.dtype, np.floating)
        feeds[spec.name] = generator.random(shape).astype(spec.dtype) if fractions else np.zeros(shape, spec.dtype)
    return feeds | {spec.name: spec.constant(wanted) for spec in network.inputs if spec.value is not None}
