"""Reports of sweeps to make pages of."""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.report import CurvePoint, CurveReport, with_front
from tests.report.test_report import REPORT

MACS, PARAMETERS, MS = 80_000_000, 4_000_000, 12.5


def point(requested: float, right: float | None = None, *, agreement: float | None = None) -> CurvePoint:
    """A target that was met exactly, a little faster than its multiply-adds say."""
    speedups = {"macs": requested, "params": 2.0, "latency": 1.1 * requested}
    outputs = {"scores": {"relative_error": 0.02 * requested, "cosine": 0.99, "agreement": agreement, "close": True}}
    accuracy = None if right is None else {"top1": right, "top5": 0.99}
    macs, ms = round(MACS / requested), MS / speedups["latency"]
    return CurvePoint(requested, 2.5, macs, PARAMETERS // 2, ms, speedups, outputs, accuracy, "out/n-2x.onnx")


MISSED = CurvePoint(900.0, 0.1, error="speedup 900 cannot be reached, the largest that can is 12.00: lower `speedup`")
POINTS = (point(2, 0.95), point(3, 0.93), point(4, 0.91), point(5, 0.92), MISSED)


def curve(points: tuple[CurvePoint, ...] = POINTS, *, timed: bool = True) -> CurveReport:
    """A sweep of a network, quick points."""
    found = CurveReport(
        version="1.2.3",
        seed=7,
        input="models/net.onnx",
        cost="macs",
        calibration=REPORT.calibration,
        refine="none",
        solved_images=REPORT.calibration.images // 2,
        held_out=500,
        macs=MACS,
        parameters=PARAMETERS,
        milliseconds=MS if timed else None,
        accuracy={"top1": 0.96, "top5": 0.995} if points[0].accuracy else None,
        latency={"batch": 1, "threads": None} if timed else None,
        points=with_front(points, "macs"),
        seconds=21.5,
        peak_memory_bytes=10**9,
    )
    if timed:
        return found
    bare = tuple(replace(each, milliseconds=None) for each in found.points)
    return replace(found, points=bare)
