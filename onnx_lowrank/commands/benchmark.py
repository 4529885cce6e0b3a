"""The result of a benchmark: models by runtime, as Python and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from onnx_lowrank.runtime.backends.protocol import RuntimeFacts
from onnx_lowrank.runtime.latency import is_steady
from onnx_lowrank.runtime.library import version
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.timing import Timing


@dataclass(frozen=True)
class ModelTiming:
    """One model of a benchmark.

    Attributes:
        path: of the model, or ``<model>`` for one in memory.
        inputs: shape by input name.
        timing: all its runs.
        ratio_to_first: how many times as fast as the first model: the ratio of the medians; None where that one
            does not run.
        interval: bounds of that ratio, see `Timing.speedup_interval`; None after a single round.
    """

    path: str
    inputs: Mapping[str, tuple[int, ...]]
    timing: Timing
    ratio_to_first: float | None
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
class ModelInRuntime:
    """One model of a benchmark in one runtime.

    Attributes:
        path: of the model, or ``<model>`` for one in memory.
        timed: None where it does not run there.
        differences: of its outputs from what onnxruntime computes, by name and relative; none for onnxruntime.
        error: why it does not run, in the words of the runtime or its converter.
    """

    path: str
    timed: ModelTiming | None
    differences: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``models`` in ``runtimes``."""
        timed = {"path": self.path} if self.timed is None else self.timed.to_dict()
        finite = {name: value if isfinite(value) else None for name, value in self.differences.items()}
        return {**timed, "differences": finite, "error": self.error}


@dataclass(frozen=True)
class RuntimeTimings:
    """A benchmark in one runtime.

    Attributes:
        runtime: its name, version, precision and threads.
        models: in the order given.
        warnings: of models that compute something else there.
    """

    runtime: RuntimeFacts
    models: tuple[ModelInRuntime, ...]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``runtimes`` in ``bench --json``."""
        return {
            "runtime": self.runtime.to_dict(),
            "models": [model.to_dict() for model in self.models],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Benchmark:
    """Latency of models, measured in turns.

    Attributes:
        provider: where onnxruntime ran.
        device: its name.
        models: in the order given, as timed in onnxruntime; none where that was not asked for.
        runtimes: the same in every runtime that was asked for, in that order.
    """

    provider: Provider
    device: str
    models: tuple[ModelTiming, ...]
    runtimes: tuple[RuntimeTimings, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``bench --json``."""
        return {
            "provider": self.provider.label,
            "device": self.device,
            "threads": self.provider.threads or None,
            "onnxruntime": version(),
            "models": [model.to_dict() for model in self.models],
            "runtimes": [each.to_dict() for each in self.runtimes],
        }
