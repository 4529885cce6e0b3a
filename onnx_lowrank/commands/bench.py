"""Measured latency of models: bench()."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.commands.benchmark import Benchmark, ModelInRuntime, ModelTiming, RuntimeTimings
from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.agreement import disagreement
from onnx_lowrank.runtime.backends import Runtime, RuntimeFacts, open_runtime
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.device import device_name
from onnx_lowrank.runtime.network import Network, open_networks
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.runtime.timing import Pace, Timing, time_in_turns
from onnx_lowrank.runtime.trial import Trial, try_out
from onnx_lowrank.settings import Constants, RuntimeName, Settings


def bench(  # noqa: PLR0913  (all but the models by keyword)
    models: Sequence[str | Path | onnx.ModelProto],
    *,
    provider: str = "auto",
    ep_library: str | Path | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    constant_inputs: Constants | None = None,
    pace: Pace | None = None,
    samples_axis: Mapping[str, int] | None = None,
    runtime: RuntimeName | Sequence[RuntimeName] = Settings.runtime,
) -> Benchmark:
    """Time models in turns, with one of them loaded at a time; in onnxruntime with inputs and outputs bound.

    Args:
        models: paths or models.
        provider: where they run.
        ep_library: file of a plugin execution provider, which ``provider`` names.
        threads: of the runtime; None for its own choice.
        batch_size: samples per run, where the model leaves that open; None for one.
        input_shapes: shape by input name, where a model leaves axes open; its first axis is the batch size too.
        constant_inputs: by name of the inputs that are no noise: numbers, an array or its file.
        pace: how much is measured.
        samples_axis: axis that counts samples by input name, where it is not the first one.
        runtime: what they run in: one, or several, one after the other. Others than onnxruntime get their models from
            their own converter, and their outputs are compared with onnxruntime's.

    Returns:
        Median and percentiles of each model, and how many times as fast as the first it is.

    Raises:
        ModelError: a model cannot be read or run, or an axis is open; of other runtimes than onnxruntime, only where
            none of them runs any model.
        MissingDependencyError: the provider is not there or does not start, or the package of a runtime is missing.
        ValueError: no models, or there is no such runtime.
    """
    if not models:
        raise ValueError("bench: no models, wanted at least one")
    where, shapes = choose_provider(provider, threads, ep_library), input_shapes or {}
    names = dict.fromkeys([runtime] if isinstance(runtime, str) else runtime)
    opened = [open_runtime(name, where) for name in names]
    networks = _with_shapes(open_networks(models, where, {}, constant_inputs or {}, samples_axis or {}), shapes)
    feeds = [_feeds(network, shapes, batch_size) for network in networks]
    found = [_in_runtime(each, networks, feeds, where, pace or Pace()) for each in opened]
    errors = [model.error for each in found for model in each.models]
    if errors and all(errors):
        raise ModelError(errors[0])
    own = next((each.models for each in found if each.runtime.name == Settings.runtime), ())
    return Benchmark(where, device_name(where), tuple(row.timed for row in own if row.timed), tuple(found))


def _in_runtime(
    runtime: Runtime,
    networks: Sequence[Network],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    provider: Provider,
    pace: Pace,
) -> RuntimeTimings:
    """Time models in one runtime."""
    facts, models = RuntimeFacts.of(runtime), [network.model for network in networks]
    names = [network.name for network in networks]
    if isinstance(runtime, OnnxRuntime):
        trials = [Trial(timing=timing) for timing in time_in_turns(models, feeds, runtime, pace)]
        warnings = []
    else:
        trials = try_out(models, feeds, runtime, provider, pace)
        warnings = disagreement(facts, names, [each.differences for each in trials])
    first = trials[0].timing
    rows = [
        ModelInRuntime(name, _timed(name, batch, first, trial.timing), trial.differences, trial.error)
        for name, batch, trial in zip(names, feeds, trials, strict=True)
    ]
    return RuntimeTimings(facts, tuple(rows), tuple(warnings))


def _timed(
    name: str, batch: Mapping[str, NDArray[Any]], first: Timing | None, timing: Timing | None
) -> ModelTiming | None:
    """Return a model with its ratio to the first one; where that does not run, there is none to relate it to."""
    if timing is None:
        return None
    inputs = {name: values.shape for name, values in batch.items()}
    if first is None:
        return ModelTiming(name, inputs, timing, None)
    interval = first.speedup_interval(timing) if len(timing.rounds) > 1 else None
    return ModelTiming(name, inputs, timing, first.speedup(timing), interval)


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
