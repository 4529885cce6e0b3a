"""The results of a sweep over several targets; written as its JSON report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnx_lowrank.layers.warning import ReportWarning
from onnx_lowrank.report.report import Calibration, Report, latency_fields

MEASURES = {"accuracy": "top-1", "agreement": "same top class", "relative_error": "relative error"}


@dataclass(frozen=True)
class CurvePoint:
    """The result for one target.

    Attributes:
        requested: the requested speedup.
        seconds: to choose ranks, solve and verify.
        macs: multiply-adds per image. None if the target was not met, like all attributes below but ``error``.
        parameters: number of weights and biases.
        milliseconds: measured latency; None also if nothing was measured.
        speedups: original / converted, for ``macs``, ``params`` and ``latency``.
        outputs: fidelity by output name.
        accuracy: ``top1`` and ``top5``; None without labels.
        model: path of the written model; None if none was written.
        on_front: whether the point is Pareto-optimal in cost and loss among all points.
        error: why the target was not met.
        latency: ``ratio`` of the measured latencies, its ``interval`` and whether it is ``steady``; None also if
            nothing was measured.
        warnings: as in `Report`.
        metric: likewise.
    """

    requested: float
    seconds: float
    macs: int | None = None
    parameters: int | None = None
    milliseconds: float | None = None
    speedups: Mapping[str, float | None] | None = None
    outputs: Mapping[str, Mapping[str, float | None]] | None = None
    accuracy: Mapping[str, float] | None = None
    model: str | None = None
    on_front: bool = False
    error: str | None = None
    latency: Mapping[str, Any] | None = None
    warnings: tuple[ReportWarning, ...] = ()
    metric: Mapping[str, Any] | None = None

    @staticmethod
    def of_report(report: Report, accuracy: Mapping[str, float] | None, seconds: float) -> CurvePoint:
        """Return the result for a target from the report of its conversion.

        Args:
            report: with its verification.
            accuracy: of the converted network on the held-out samples; None without labels.
            seconds: to choose ranks, solve and verify.
        """
        latency, speedups = report.latency, report.to_dict()["speedup"]
        return CurvePoint(
            speedups.pop("requested"),
            seconds,
            report.macs[1],
            report.parameters[1],
            None if latency is None else latency["after_ms"],
            speedups,
            (report.verification or {})["outputs"],
            accuracy,
            report.output,
            latency=None if latency is None else {key: latency[key] for key in ("ratio", "interval", "steady")},
            warnings=report.warnings,
            metric=report.metric,
        )

    @property
    def fidelity(self) -> tuple[str, float | None]:
        """The measure that the point is judged by, ``metric`` or a key of `MEASURES`, and its value.

        None for an infinite error.
        """
        if self.metric is not None:
            return "metric", self.metric["converted"]
        if self.accuracy is not None:
            return "accuracy", self.accuracy["top1"]
        outputs = list((self.outputs or {}).values())
        for output in outputs:
            if output["agreement"] is not None:
                return "agreement", output["agreement"]
        return "relative_error", outputs[0]["relative_error"] if outputs else None

    @property
    def measure(self) -> str:
        """What readers know the measure as that the point is judged by."""
        kind, _ = self.fidelity
        return str(self.metric["name"]) if self.metric is not None else MEASURES[kind]

    @property
    def measure_title(self) -> str:
        """The same at the beginning of a sentence; names of metrics stay as they are."""
        return self.measure if self.metric is not None else self.measure.capitalize()

    @property
    def not_close(self) -> bool:
        """Whether an output is not close to the original's, see `onnx_lowrank.verify.fidelity`."""
        return any(output.get("close") is False for output in (self.outputs or {}).values())

    @property
    def loss(self) -> float:
        """The fidelity as a loss: the smaller, the better."""
        kind, number = self.fidelity
        if number is None:
            return float("inf")
        return number if kind == "relative_error" else 1 - number  # a score may be above 1: only the order counts

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``points`` in the JSON report."""
        none: dict[str, float | None] = {"macs": None, "params": None, "latency": None}
        return {
            "speedup": {"requested": self.requested, **(self.speedups or none)},
            "macs": self.macs,
            "params": self.parameters,
            "milliseconds": self.milliseconds,
            "outputs": self.outputs,
            "accuracy": self.accuracy,
            "seconds": self.seconds,
            "model": self.model,
            "on_front": self.on_front,
            "error": self.error,
            "latency": self.latency,
            "warnings": [warning.to_dict() for warning in self.warnings],
            "passed": self.error is None and not self.warnings,
            **({} if self.metric is None else {"metric": self.metric}),
        }


@dataclass(frozen=True)
class CurveReport:
    """The results of a sweep; field by field its JSON report.

    ::

        {"schema": 1, "version": str, "seed": int, "input": path,
         "cost": "macs" | "params" | "latency",                  # counted by the speedups and by the front
         "calibration": {"source", "synthetic", "images", "positions_per_image", "provider", "preprocessing"},
         "solved": {"refine": str, "images": int},               # fewer than for calibration: quick points
         "held_out": int,                                        # samples that verify every point
         "original": {"macs": int, "params": int, "milliseconds": x | null, "accuracy": {"top1", "top5"} | null},
         "latency": {"batch": int, "threads": int | null} | null,
         "runtime": {"name", "version", "precision", "threads"} | null,  # that latencies were measured in
         "points": [{"speedup": {"requested": x, "macs": x, "params": x, "latency": x | null},
                     "macs": int, "params": int, "milliseconds": x | null,
                     "outputs": {name: {"relative_error", "cosine", "agreement", "close"}},
                     "accuracy": {"top1": x, "top5": x} | null,
                     "seconds": x, "model": path | null, "on_front": bool,
                     "error": text | null,                       # null with an error: all but requested and seconds
                     "latency": {"ratio": x, "interval": [a, b], "steady": bool} | null,
                     "warnings": [{"code", "text"}],             # as in the report of a conversion
                     "passed": bool}],                           # met, verified, and nothing to warn of
         "limits": {"warn": {...}, "refuse": {...}},             # what outputs are judged by
         "complete": bool,                                       # not, if written before the last target was done
         "seconds": x, "peak_memory_bytes": int}

    Attributes:
        version: of this package.
        seed: of all randomness.
        input: path of the original, or ``<model>``.
        cost: counted by the speedups: ``macs``, ``params`` or ``latency``.
        calibration: data, positions and provider.
        refine: refinement of the points.
        solved_images: number of samples that solved the points.
        held_out: number of samples that verified them.
        macs: multiply-adds per image of the original.
        parameters: of the original.
        milliseconds: measured latency of the original; None if nothing was measured.
        accuracy: ``top1`` and ``top5`` of the original; None without labels.
        latency: batch size, threads and runtime of the measurement; None if nothing was measured.
        points: results by rising target.
        seconds: of the whole sweep.
        peak_memory_bytes: peak resident memory of the process.
        limits: what outputs were judged by.
        complete: whether all targets have been tried and latencies measured; what is written on the way is not.
    """

    version: str
    seed: int
    input: str
    cost: str
    calibration: Calibration
    refine: str
    solved_images: int
    held_out: int
    macs: int
    parameters: int
    milliseconds: float | None
    accuracy: Mapping[str, float] | None
    latency: Mapping[str, Any] | None
    points: tuple[CurvePoint, ...]
    seconds: float
    peak_memory_bytes: int
    limits: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    complete: bool = True

    @property
    def met(self) -> list[CurvePoint]:
        """Points whose target was met."""
        return [point for point in self.points if point.error is None]

    @property
    def quick(self) -> bool:
        """Whether the points are less accurate than full conversions to the same targets."""
        return self.refine == "none" or self.solved_images < self.calibration.images

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON report as a dictionary."""
        return {
            "schema": 1,
            "version": self.version,
            "seed": self.seed,
            "input": self.input,
            "cost": self.cost,
            "calibration": vars(self.calibration),
            "solved": {"refine": self.refine, "images": self.solved_images},
            "held_out": self.held_out,
            "original": {
                "macs": self.macs,
                "params": self.parameters,
                "milliseconds": self.milliseconds,
                "accuracy": self.accuracy,
            },
            **latency_fields(self.latency),
            "points": [point.to_dict() for point in self.points],
            "limits": self.limits,
            "complete": self.complete,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def to_json(self) -> str:
        """Return the JSON report as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def with_front(points: Sequence[CurvePoint], cost: str) -> tuple[CurvePoint, ...]:
    """Return the points with those marked that are Pareto-optimal in cost and loss.

    Args:
        points: results of a sweep; those with an error are never on the front.
        cost: ``macs``, ``params`` or ``latency``; a point without a measured latency counts its multiply-adds instead.

    >>> some = [CurvePoint(s, 0.0, macs, accuracy={"top1": right}) for s, macs, right in [(2, 50, 0.9), (3, 30, 0.9)]]
    >>> [point.on_front for point in with_front(some, "macs")]
    [False, True]
    """
    scores = [(_cost(point, cost), point.loss) for point in points if point.error is None]
    return tuple(replace(point, on_front=_is_optimal(point, cost, scores)) for point in points)


def _is_optimal(point: CurvePoint, cost: str, scores: Sequence[tuple[float, float]]) -> bool:
    """Return whether no pair of cost and loss is at least as good in both, and better in one."""
    if point.error is not None:
        return False
    own = (_cost(point, cost), point.loss)
    return not any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in scores)


def _cost(point: CurvePoint, cost: str) -> float:
    value = {"macs": point.macs, "params": point.parameters, "latency": point.milliseconds}[cost]
    return float(point.macs or 0) if value is None else float(value)
