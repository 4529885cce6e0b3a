"""What several targets came to, in numbers; the JSON of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx_lowrank.report.report import Calibration, Report

LOSSES = {"accuracy": "top-1", "agreement": "same top class", "relative_error": "relative error"}


@dataclass(frozen=True)
class CurvePoint:
    """One target.

    Attributes:
        requested: the speedup asked for.
        seconds: that it took to choose ranks, solve and verify.
        macs: multiply-adds per image; None where the target was not met, like all that follows but ``error``.
        parameters: weights and biases.
        milliseconds: measured latency; also None where nothing was measured.
        speedups: original / converted: ``macs``, ``params``, ``latency``.
        outputs: fidelity by output name.
        accuracy: ``top1`` and ``top5``; None without labels.
        model: path written; None where none was.
        on_front: whether no other point costs as little and loses less, or loses as little and costs less.
        error: why the target was not met.
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

    @staticmethod
    def of_report(report: Report, accuracy: Mapping[str, float] | None, seconds: float) -> CurvePoint:
        """From the report of the conversion to a target.

        Args:
            report: with its verification.
            accuracy: of the converted network on the held-out samples; None without labels.
            seconds: that it took.
        """
        latency, found = report.latency, report.to_dict()["speedup"]
        return CurvePoint(
            found.pop("requested"),
            seconds,
            report.macs[1],
            report.parameters[1],
            None if latency is None else latency["after_ms"],
            found,
            (report.verification or {})["outputs"],
            accuracy,
            report.output,
        )

    @property
    def fidelity(self) -> tuple[str, float | None]:
        """What it is judged by, a key of `LOSSES`, and the number; None for an error without bounds."""
        if self.accuracy is not None:
            return "accuracy", self.accuracy["top1"]
        outputs = list((self.outputs or {}).values())
        for found in outputs:
            if found["agreement"] is not None:
                return "agreement", found["agreement"]
        return "relative_error", outputs[0]["relative_error"] if outputs else None

    @property
    def loss(self) -> float:
        """The number as something that is better the smaller it is."""
        kind, number = self.fidelity
        if number is None:
            return float("inf")
        return number if kind == "relative_error" else 1 - number

    def to_dict(self) -> dict[str, Any]:
        """Its entry in the JSON."""
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
        }


@dataclass(frozen=True)
class CurveReport:
    """A sweep in numbers; field by field its JSON.

    ::

        {"schema": 1, "version": str, "seed": int, "input": path,
         "cost": "macs" | "params" | "latency",                  # what the speedups count, and the front goes by
         "calibration": {"source", "synthetic", "images", "positions_per_image", "provider"},
         "solved": {"refine": str, "images": int},               # fewer than calibrated with: quick points
         "held_out": int,                                        # samples that all points are verified with
         "original": {"macs": int, "params": int, "milliseconds": x | null, "accuracy": {"top1", "top5"} | null},
         "latency": {"batch": int, "threads": int | null} | null,
         "points": [{"speedup": {"requested": x, "macs": x, "params": x, "latency": x | null},
                     "macs": int, "params": int, "milliseconds": x | null,
                     "outputs": {name: {"relative_error", "cosine", "agreement"}},
                     "accuracy": {"top1": x, "top5": x} | null,
                     "seconds": x, "model": path | null, "on_front": bool,
                     "error": text | null}],                     # with an error all but requested and seconds is null
         "seconds": x, "peak_memory_bytes": int}

    Attributes:
        version: of this package.
        seed: of all randomness.
        input: path of the original, or ``<model>``.
        cost: what the speedups count.
        calibration: data, positions and provider.
        refine: how far the points were refined.
        solved_images: samples that they were solved with.
        held_out: samples that they were verified with.
        macs: of the original.
        parameters: likewise.
        milliseconds: likewise; None where nothing was measured.
        accuracy: likewise, ``top1`` and ``top5``; None without labels.
        latency: batch size and threads it was measured with.
        points: the targets by rising speedup.
        seconds: of everything.
        peak_memory_bytes: the most memory the process ever had resident.
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
    latency: Mapping[str, int | None] | None
    points: tuple[CurvePoint, ...]
    seconds: float
    peak_memory_bytes: int

    @property
    def met(self) -> list[CurvePoint]:
        """The points whose target was met."""
        return [point for point in self.points if point.error is None]

    @property
    def quick(self) -> bool:
        """Whether the points are worse than conversions to the same targets would be."""
        return self.refine == "none" or self.solved_images < self.calibration.images

    def to_dict(self) -> dict[str, Any]:
        """The JSON as a dictionary."""
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
            "latency": self.latency,
            "points": [point.to_dict() for point in self.points],
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def to_json(self) -> str:
        """The JSON as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def with_front(points: Sequence[CurvePoint], cost: str) -> tuple[CurvePoint, ...]:
    """Points with those marked that no other one beats, in cost and in loss.

    Args:
        points: the points; those with an error are never on the front.
        cost: ``macs``, ``params`` or ``latency``; points without a measured latency go by their multiply-adds.

    >>> some = [CurvePoint(s, 0.0, macs, accuracy={"top1": right}) for s, macs, right in [(2, 50, 0.9), (3, 30, 0.9)]]
    >>> [point.on_front for point in with_front(some, "macs")]
    [False, True]
    """
    places = [None if each.error else (_cost(each, cost), each.loss) for each in points]
    known = [place for place in places if place is not None]
    marked = []
    for point, place in zip(points, places, strict=True):
        beaten = place is None or any(
            other != place and other[0] <= place[0] and other[1] <= place[1] for other in known
        )
        marked.append(replace(point, on_front=not beaten))
    return tuple(marked)


def _cost(point: CurvePoint, cost: str) -> float:
    by = {"macs": point.macs, "params": point.parameters, "latency": point.milliseconds}[cost]
    return float(point.macs or 0) if by is None else float(by)
