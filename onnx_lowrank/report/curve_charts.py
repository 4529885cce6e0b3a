"""The charts of a sweep: what is lost over what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx_lowrank.report.curve import LOSSES, CurvePoint, CurveReport
from onnx_lowrank.report.svg import ROLES, drawing, markup, tag
from onnx_lowrank.report.text import fidelity_text, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 460, 300  # pixels
_MARGINS = (52, 42, 16, 18)
_ROOM = 0.12  # above and below the points, of the range they span
_LABEL = (7, 13)  # of a point, pixels from it to the right, and down or up: where the curve does not go
_LABEL_SIZE = (30, 13)
_LEAST_RANGE = 4.0  # percent

Place = tuple[float, float]


def macs_curve(report: CurveReport) -> str:
    """What the points are judged by over their multiply-adds.

    Args:
        report: a sweep.
    """
    return _curve(report, "macs", lambda point: point.macs, report.macs)


def latency_curve(report: CurveReport) -> str | None:
    """The same over measured milliseconds; None where nothing was measured.

    Args:
        report: a sweep.
    """
    if report.milliseconds is None:
        return None
    return _curve(report, "latency", lambda point: point.milliseconds, report.milliseconds)


def original_fidelity(report: CurveReport) -> float:
    """What the original would be judged by: its accuracy, or that it is itself."""
    kind = report.met[0].fidelity[0]
    if kind == "accuracy" and report.accuracy is not None:
        return report.accuracy["top1"]
    return 0.0 if kind == "relative_error" else 1.0


def _curve(report: CurveReport, name: str, cost: Callable[[CurvePoint], float | None], whole: float) -> str:
    shown = [(point, _place(point, cost)) for point in report.met]
    places = [(point, place) for point, place in shown if place is not None]
    kind = report.met[0].fidelity[0]
    origin = (float(whole), _scaled(kind, original_fidelity(report)))
    with drawing(_WIDTH, _HEIGHT, _MARGINS) as (figure, axes):
        front = sorted(place for point, place in places if point.on_front)
        axes.plot([x for x, _ in front], [y for _, y in front], color=ROLES["after"], linewidth=1.5)
        (mark,) = axes.plot(*([each] for each in origin), "s", color=ROLES["before"], markersize=7)
        tag(mark, "original", "original", f"original: {_cost_text(name, whole)}")
        for point, place in places:
            role, inside = ("after", "after") if point.on_front else ("before", "surface")
            (mark,) = axes.plot(*([each] for each in place), "o", color=ROLES[role], markerfacecolor=ROLES[inside])
            text = f"{point.requested:g}x: {_cost_text(name, place[0])}, {LOSSES[kind]} {fidelity_text(point)}"
            tag(mark, "front" if point.on_front else "behind", f"{point.requested:g}", text)
        _ranges(axes, [place for _, place in places] + [origin], upwards=kind == "relative_error")
        _labels(axes, places, upwards=kind == "relative_error")
        axes.set(xlabel="multiply-adds per image" if name == "macs" else "milliseconds", ylabel="")
        if name == "macs":
            axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
        return markup(figure, f"{name}curve", _text(report, name, places))


def _labels(axes: Axes, places: list[tuple[CurvePoint, Place]], *, upwards: bool) -> None:
    """Targets beside their points, but for those that would be written over another one."""
    across, down = _LABEL
    offset = (across, down - 8 if upwards else -down)
    pixel = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    written: list[Place] = []
    for point, place in places:
        x, y = (pixel * each for each in axes.transData.transform(place))
        if any(abs(x - u) < _LABEL_SIZE[0] and abs(y - v) < _LABEL_SIZE[1] for u, v in written):
            continue
        written.append((x, y))
        text = f"{point.requested:g}×"
        axes.annotate(text, place, offset, textcoords="offset points", color=ROLES["text"], fontsize=11)


def _place(point: CurvePoint, cost: Callable[[CurvePoint], float | None]) -> Place | None:
    kind, number = point.fidelity
    across = cost(point)
    return None if across is None or number is None else (float(across), _scaled(kind, number))


def _scaled(kind: str, number: float) -> float:
    return number if kind == "relative_error" else 100 * number


def _ranges(axes: Axes, places: list[Place], *, upwards: bool) -> None:
    """From no cost to a little more than the original's; what is lost with room for labels."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    heights = [y for _, y in places]
    room = _ROOM * max(max(heights) - min(heights), _LEAST_RANGE * (0.01 if upwards else 1))
    low, high = (0.0, max(heights) + room) if upwards else (min(heights) - 2 * room, min(100, max(heights) + room))
    axes.set(xlim=(0, 1.05 * max(x for x, _ in places)), ylim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _cost_text(name: str, value: float) -> str:
    return f"{short_number(value)} multiply-adds" if name == "macs" else f"{value:.3g} ms"


def _text(report: CurveReport, name: str, places: list[tuple[CurvePoint, Place]]) -> str:
    kind = report.met[0].fidelity[0]
    parts = [
        f"{point.requested:g}x {_cost_text(name, place[0])}, {fidelity_text(point)}"
        + ("" if point.on_front else ", not on the front")
        for point, place in places
    ]
    return f"{LOSSES[kind].capitalize()} of {len(places)} targets over what they cost: {'; '.join(parts)}."
