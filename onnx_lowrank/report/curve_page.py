"""A sweep as one HTML page that loads nothing; needs the extra ``report``, like the page of a conversion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.report.curve import LOSSES, CurvePoint, CurveReport
from onnx_lowrank.report.curve_charts import latency_curve, macs_curve, original_fidelity
from onnx_lowrank.report.page import check_page_packages, filled_in
from onnx_lowrank.report.rows import Cell, Column
from onnx_lowrank.report.text import fidelity_text, short_number


def curve_to_html(report: CurveReport) -> str:
    """The page of a sweep; the same bytes for the same report.

    Args:
        report: its numbers.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
    """
    check_page_packages("to_html")
    kind = report.met[0].fidelity[0]
    return filled_in(
        "curve.html.j2",
        report=report,
        name=PurePath(report.input).name,
        verdict=_verdict(report),
        quick=quick_text(report) if report.quick else "",
        judged={"accuracy": "Top-1 (%)", "agreement": "Same top class as the original (%)"}.get(kind, "Relative error"),
        macs_chart=macs_curve(report),
        latency_chart=latency_curve(report),
        columns=[column for column, _ in _table(report)],
        rows=[[cells[number] for _, cells in _table(report)] for number in range(len(report.points))],
        making=list(_making(report)),
    )


def quick_text(report: CurveReport) -> str:
    """How the points fall short of conversions to the same targets, in a sentence.

    Args:
        report: a sweep whose points are quick ones.
    """
    refined = "without refinement " if report.refine == "none" else ""
    return (
        f"solved {refined}with {report.solved_images} of {report.calibration.images} samples: "
        "a conversion to the same target does a little better"
    )


def _verdict(report: CurveReport) -> str:
    """The sweep in a sentence: its first and its last target."""
    ends = list(dict.fromkeys([report.met[0].requested, report.met[-1].requested]))
    kind = report.met[0].fidelity[0]
    text = ", ".join(
        f"{fidelity_text(point)} at {point.requested:g}×" for point in report.met if point.requested in ends
    )
    before = f", {original_fidelity(report):.2%} in the original" if kind == "accuracy" else ""
    missed = len(report.points) - len(report.met)
    return f"{LOSSES[kind].capitalize()} {text}{before}." + (f" {missed} out of reach." if missed else "")


def _table(report: CurveReport) -> list[tuple[Column, list[Cell]]]:
    """Columns with their cells, one for each point; those that would be empty all over are left out."""
    points = report.points
    speedup = [point.speedups or {} for point in points]
    found = [
        (Column("target"), [Cell(f"{point.requested:g}×", str(point.requested)) for point in points]),
        (Column("MACs"), _numbers([point.macs for point in points], short=True)),
        (Column("fewer"), _numbers([each.get("macs") for each in speedup], ".2f", "×")),
        (Column("parameters"), _numbers([point.parameters for point in points], short=True)),
        (Column("ms"), _numbers([point.milliseconds for point in points], ".3g")),
        (Column("faster"), _numbers([each.get("latency") for each in speedup], ".2f", "×")),
        (Column("top-1, %"), _numbers([_accuracy(point, "top1") for point in points], ".2f")),
        (Column("top-5, %"), _numbers([_accuracy(point, "top5") for point in points], ".2f")),
    ]
    for name in report.met[0].outputs or {}:
        fields = [(point.outputs or {}).get(name, {}) for point in points]
        title = "" if len(report.met[0].outputs or {}) == 1 else f"{name}: "
        same = [None if (share := each.get("agreement")) is None else 100 * share for each in fields]
        found += [
            (Column(f"{title}same top class, %"), _numbers(same, ".2f")),
            (Column(f"{title}relative error"), _numbers([each.get("relative_error") for each in fields], ".4f")),
        ]
    found += [
        (Column("seconds"), _numbers([point.seconds for point in points], ".1f")),
        (Column("on the front", numeric=False), [_word("yes" if point.on_front else "") for point in points]),
        (Column("model", numeric=False), [_word(PurePath(point.model or "").name) for point in points]),
        (Column("why not", numeric=False), [_word(point.error or "") for point in points]),
    ]
    return [(column, cells) for column, cells in found if any(cell.text for cell in cells)]


def _accuracy(point: CurvePoint, top: str) -> float | None:
    return None if point.accuracy is None else 100 * point.accuracy[top]


def _numbers(values: Sequence[float | None], form: str = "", unit: str = "", *, short: bool = False) -> list[Cell]:
    return [
        Cell() if value is None else Cell(short_number(value) if short else f"{value:{form}}{unit}", repr(float(value)))
        for value in values
    ]


def _word(text: str) -> Cell:
    return Cell(text, text)


def _making(report: CurveReport) -> Iterator[tuple[str, str]]:
    """How it was made, as titles and texts."""
    calibration = report.calibration
    yield "Original", f"{report.input}, {short_number(report.macs)} MACs, {short_number(report.parameters)} parameters"
    if report.accuracy is not None:
        yield "Its accuracy", ", ".join(f"{top} {share:.2%}" for top, share in report.accuracy.items())
    if report.milliseconds is not None and report.latency is not None:
        where = f"batch {report.latency['batch']}, {threads_text(report.latency['threads'])}"
        yield "Its latency", f"{report.milliseconds:.3g} ms, {where}"
    yield "Speedups count", {"macs": "multiply-adds", "params": "parameters"}.get(report.cost, "measured milliseconds")
    yield "Calibrated with", f"{calibration.images} samples of {calibration.source}, on {calibration.provider}"
    yield "Solved", f"with {report.solved_images} samples, refinement {report.refine}"
    yield "Verified on", f"{report.held_out} {'made-up' if calibration.synthetic else 'held-out'} samples"
    yield "Seed", str(report.seed)
    yield "Seconds", f"{report.seconds:.1f}"
    yield "Peak memory", f"{short_number(report.peak_memory_bytes)}B"
