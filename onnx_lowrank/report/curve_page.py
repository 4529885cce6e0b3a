"""The page of a sweep: one HTML file that loads nothing; needs the extra ``report``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from onnx_lowrank.report.curve import CurvePoint, CurveReport
from onnx_lowrank.report.curve_charts import latency_curve, macs_curve, original_fidelity
from onnx_lowrank.report.table import Cell, Column, numbers, rows, short_counts, without_empty, words
from onnx_lowrank.report.template import check_page_packages, fill_template
from onnx_lowrank.report.text import (
    fidelity_text,
    held_out_text,
    is_steady,
    latency_conditions,
    short_number,
    shown_faster,
    unsteady_text,
)

_MEASURE_TITLES = {
    "accuracy": "Top-1 (%)",
    "agreement": "Same top class as the original (%)",
    "relative_error": "Relative error",
}


def curve_to_html(report: CurveReport) -> str:
    """Return the page of a sweep; the same bytes for the same report.

    Args:
        report: its numbers.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
    """
    check_page_packages("to_html")
    kind = report.met[0].fidelity[0]
    columns = _columns(report)
    name = PurePath(report.input).name
    return fill_template(
        "curve.html.j2",
        report=report,
        title=f"{name}: {len(report.points)} targets",
        name=name,
        verdict=_verdict(report),
        warnings=[f"{point.requested:g}×: {warning}" for point in report.met for warning in point.warnings],
        quick=quick_text(report) if report.quick else "",
        measure=_MEASURE_TITLES.get(kind, report.met[0].measure),
        held_out=held_out_text(report.held_out, report.calibration),
        macs_chart=macs_curve(report),
        latency_chart=latency_curve(report),
        columns=columns,
        rows=rows(columns),
        row_heading=None,
        making=list(_making(report)),
    )


def quick_text(report: CurveReport) -> str:
    """Return in a sentence how quick points differ from conversions to the same targets.

    Args:
        report: a sweep with quick points.
    """
    refined = "without refinement " if report.refine == "none" else ""
    return (
        f"solved {refined}with {report.solved_images} of {report.calibration.images} samples: "
        "a conversion to the same target does a little better"
    )


def _verdict(report: CurveReport) -> str:
    """Return the sweep in a sentence: its first and its last target."""
    ends = list(dict.fromkeys([report.met[0].requested, report.met[-1].requested]))
    kind = report.met[0].fidelity[0]
    text = ", ".join(
        f"{fidelity_text(point)} at {point.requested:g}×" for point in report.met if point.requested in ends
    )
    before = f", {original_fidelity(report):.2%} in the original" if kind == "accuracy" else ""
    before = f", {original_fidelity(report):.4g} in the original" if kind == "metric" else before
    missed = len(report.points) - len(report.met)
    measure = report.met[0].measure if kind == "metric" else report.met[0].measure.capitalize()
    return f"{measure} {text}{before}." + (f" {missed} out of reach." if missed else "")


def _columns(report: CurveReport) -> list[Column]:
    """Return the columns of the table, one cell per point; empty columns are left out."""
    points = report.points
    speedups = [point.speedups or {} for point in points]
    return without_empty(
        [
            Column("target", [Cell(f"{point.requested:g}×", str(point.requested)) for point in points]),
            short_counts("MACs", [point.macs for point in points]),
            numbers("fewer", [each.get("macs") for each in speedups], ".2f", "×"),
            short_counts("parameters", [point.parameters for point in points]),
            numbers("ms", [point.milliseconds for point in points], ".3g"),
            Column("faster", [_faster(point) for point in points]),
            numbers(report.met[0].measure, [_score(point) for point in points], ".4g"),
            numbers("top-1, %", [_accuracy(point, "top1") for point in points], ".2f"),
            numbers("top-5, %", [_accuracy(point, "top5") for point in points], ".2f"),
            *_output_columns(report),
            numbers("seconds", [point.seconds for point in points], ".1f"),
            words("on the front", ["yes" if point.on_front else "" for point in points]),
            words("fidelity", ["not close" if point.not_close else "" for point in points]),
            words("model", [PurePath(point.model or "").name for point in points]),
            words("reason", [point.error or "" for point in points]),
        ]
    )


def _faster(point: CurvePoint) -> Cell:
    """Return how many times as fast a point is; its bounds alone where they are wide."""
    speedup = (point.speedups or {}).get("latency")
    if speedup is None:
        return Cell()
    unsteady = point.latency is not None and not is_steady(point.latency)
    text = unsteady_text(point.latency["interval"], "×") if point.latency and unsteady else shown_faster(speedup, "×")
    return Cell(text, repr(float(speedup)))


def _output_columns(report: CurveReport) -> Iterator[Column]:
    """Return agreement and relative error of every output; its name is in the heading if there are several."""
    names = list(report.met[0].outputs or {})
    for name in names:
        fidelities = [(point.outputs or {}).get(name, {}) for point in report.points]
        title = "" if len(names) == 1 else f"{name}: "
        shares = [each.get("agreement") for each in fidelities]
        percents = [None if share is None else 100 * share for share in shares]
        yield numbers(f"{title}same top class, %", percents, ".2f")
        yield numbers(f"{title}relative error", [each.get("relative_error") for each in fidelities], ".4f")


def _score(point: CurvePoint) -> float | None:
    return None if point.metric is None else float(point.metric["converted"])


def _accuracy(point: CurvePoint, top: str) -> float | None:
    return None if point.accuracy is None else 100 * point.accuracy[top]


def _making(report: CurveReport) -> Iterator[tuple[str, str]]:
    """Return how the sweep was made, as titles and texts."""
    calibration = report.calibration
    yield "Original", f"{report.input}, {short_number(report.macs)} MACs, {short_number(report.parameters)} parameters"
    if report.accuracy is not None:
        yield "Its accuracy", ", ".join(f"{top} {share:.2%}" for top, share in report.accuracy.items())
    if report.milliseconds is not None and report.latency is not None:
        yield "Its latency", f"{report.milliseconds:.3g} ms, {latency_conditions(report.latency)}"
    yield "Speedups count", {"macs": "multiply-adds", "params": "parameters"}.get(report.cost, "measured milliseconds")
    yield "Calibrated with", f"{calibration.images} samples of {calibration.source}, on {calibration.provider}"
    yield "Solved", f"with {report.solved_images} samples, refinement {report.refine}"
    yield "Verified on", held_out_text(report.held_out, calibration)
    yield "Seed", str(report.seed)
    yield "Seconds", f"{report.seconds:.1f}"
    yield "Peak memory", f"{short_number(report.peak_memory_bytes)}B"
