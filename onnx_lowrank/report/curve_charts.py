"""Charts of a sweep: fidelity against cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnx_lowrank.report.curve import CurvePoint, CurveReport
from onnx_lowrank.report.svg import PLACEHOLDERS, open_chart
from onnx_lowrank.report.text import fidelity_text, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 460, 300  # pixels
_MARGINS = (52, 42, 16, 18)  # pixels: left, bottom, right, top
_HEADROOM = 0.12  # above and below the points, as a share of their range
_LABEL_OFFSET = (7, 13)  # pixels from a point to its label: to the right, and to the side where the curve does not run
_LABEL_SIZE = (30, 13)  # pixels
_MIN_RANGE = 0.04  # of the whole scale

_XY = tuple[float, float]


def macs_curve(report: CurveReport) -> str:
    """Draw the fidelity of all points against their multiply-adds.

    Args:
        report: of a sweep.

    Returns:
        An SVG element.
    """
    return _curve(report, "macs", [point.macs for point in report.met], report.macs)


def latency_curve(report: CurveReport) -> str | None:
    """Draw the fidelity of all points against their measured latency.

    Args:
        report: of a sweep.

    Returns:
        An SVG element; None if nothing was measured.
    """
    if report.milliseconds is None:
        return None
    return _curve(report, "latency", [point.milliseconds for point in report.met], report.milliseconds)


def original_fidelity(report: CurveReport) -> float:
    """Return the fidelity of the original: its score or accuracy, or perfect fidelity to itself.

    Args:
        report: of a sweep.
    """
    kind, metric = report.met[0].fidelity[0], report.met[0].metric
    if metric is not None:
        return float(metric["original"])
    if kind == "accuracy" and report.accuracy is not None:
        return report.accuracy["top1"]
    return 0.0 if kind == "relative_error" else 1.0


def _curve(report: CurveReport, name: str, costs: Sequence[float | None], original_cost: float) -> str:
    """Draw one chart; ``costs`` are those of the points whose target was met."""
    kind = report.met[0].fidelity[0]
    is_error = kind == "relative_error"
    points = [(point, xy) for point, cost in zip(report.met, costs, strict=True) if (xy := _position(point, cost))]
    origin = (float(original_cost), _scaled(kind, original_fidelity(report)))
    with open_chart(_WIDTH, _HEIGHT, _MARGINS) as chart:
        axes = chart.axes
        front = sorted(xy for point, xy in points if point.on_front)
        axes.plot([x for x, _ in front], [y for _, y in front], color=PLACEHOLDERS["after"], linewidth=1.5)
        (square,) = axes.plot([origin[0]], [origin[1]], "s", color=PLACEHOLDERS["before"], markersize=7)
        chart.mark(square, "original", "original", f"original: {_cost_text(name, original_cost)}")
        for point, (x, y) in points:
            role, fill = ("after", "after") if point.on_front else ("before", "surface")
            (dot,) = axes.plot([x], [y], "o", color=PLACEHOLDERS[role], markerfacecolor=PLACEHOLDERS[fill])
            text = f"{point.requested:g}x: {_cost_text(name, x)}, {point.measure} {fidelity_text(point)}"
            chart.mark(dot, "front" if point.on_front else "behind", f"{point.requested:g}", text)
        _set_ranges(axes, [xy for _, xy in points] + [origin], kind)
        _add_labels(axes, points, below=is_error)
        axes.set(xlabel="multiply-adds per image" if name == "macs" else "milliseconds", ylabel="")
        if name == "macs":
            axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
        return chart.markup(f"{name}curve", _text(report, name, points))


def _add_labels(axes: Axes, points: Sequence[tuple[CurvePoint, _XY]], *, below: bool) -> None:
    """Write targets next to their points, but for those that would cover an earlier label."""
    right, down = _LABEL_OFFSET
    offset = (right, down - 8 if below else -down)
    pixel = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    written: list[_XY] = []
    for point, xy in points:
        x, y = (pixel * coordinate for coordinate in axes.transData.transform(xy))
        if any(abs(x - u) < _LABEL_SIZE[0] and abs(y - v) < _LABEL_SIZE[1] for u, v in written):
            continue
        written.append((x, y))
        text = f"{point.requested:g}×"
        axes.annotate(text, xy, offset, textcoords="offset points", color=PLACEHOLDERS["text"], fontsize=11)


def _position(point: CurvePoint, cost: float | None) -> _XY | None:
    """Return the coordinates of a point; None for an infinite error or without a cost."""
    kind, fidelity = point.fidelity
    return None if cost is None or fidelity is None else (float(cost), _scaled(kind, fidelity))


def _scaled(kind: str, number: float) -> float:
    return number if kind in {"relative_error", "metric"} else 100 * number


def _set_ranges(axes: Axes, points: Sequence[_XY], kind: str) -> None:
    """Set the ranges of the axes: cost from 0 to a little above the original's, fidelity with room for labels."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    heights = [y for _, y in points]
    whole = {"relative_error": 1.0, "metric": max(map(abs, heights))}.get(kind, 100.0)
    room = _HEADROOM * max(max(heights) - min(heights), _MIN_RANGE * (whole or 1))
    low, high = min(heights) - 2 * room, max(heights) + room
    if kind == "relative_error":
        low = 0.0
    elif kind != "metric":
        high = min(100, high)
    axes.set(xlim=(0, 1.05 * max(x for x, _ in points)), ylim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.spines["left"].set_visible(False)


def _cost_text(name: str, value: float) -> str:
    return f"{short_number(value)} multiply-adds" if name == "macs" else f"{value:.3g} ms"


def _text(report: CurveReport, name: str, points: Sequence[tuple[CurvePoint, _XY]]) -> str:
    parts = [
        f"{point.requested:g}x {_cost_text(name, xy[0])}, {fidelity_text(point)}"
        + ("" if point.on_front else ", not on the front")
        for point, xy in points
    ]
    return f"{_capital(report.met[0].measure)} of {len(points)} targets by cost: {'; '.join(parts)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
