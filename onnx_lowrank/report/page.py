"""The page of a conversion: one HTML file that loads nothing, with numbers, charts and pictures.

Needs the extra ``report``: Jinja2 fills in the template, matplotlib draws the charts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.report.charts import energy_chart, error_chart, macs_chart
from onnx_lowrank.report.figures import ReportFigures
from onnx_lowrank.report.found import found_picture
from onnx_lowrank.report.layer_table import layer_columns
from onnx_lowrank.report.pictures import picture
from onnx_lowrank.report.report import LayerReport, Report
from onnx_lowrank.report.table import rows
from onnx_lowrank.report.template import check_page_packages, fill_template
from onnx_lowrank.report.text import (
    bounds_text,
    calibration_text,
    drop_text,
    error_text,
    fewer_text,
    held_out_text,
    is_steady,
    kind_text,
    latency_conditions,
    loss_text,
    metric_detail,
    seconds_text,
    share_text,
    short_number,
    shown_speedup,
    size_change,
    speed_text,
    times_text,
    unsteady_text,
)


@dataclass(frozen=True)
class KeyFigure:
    """A number of the headline.

    Attributes:
        title: name of the quantity.
        value: the number with its unit.
        detail: the numbers or samples behind it.
    """

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class EnergyCurve:
    """An energy curve of the page.

    Attributes:
        number: of the layer in the table, from 1.
        name: of the layer.
        caption: the rank that was chosen.
        chart: SVG element.
    """

    number: int
    name: str
    caption: str
    chart: str


def to_html(report: Report, figures: ReportFigures) -> str:
    """Return the page of a conversion; the same bytes for the same report and figures.

    Args:
        report: its numbers.
        figures: its curves and pictures.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
    """
    check_page_packages("to_html")
    columns = layer_columns(report, figures.kernels)
    name = PurePath(report.input).name
    return fill_template(
        "page.html.j2",
        report=report,
        title=f"{name}: {report.speedup:.2f}× fewer multiply-adds",
        name=name,
        verdict=_verdict(report),
        warnings=[warning.text for warning in report.warnings],
        key_figures=list(_key_figures(report, figures.file_bytes)),
        outputs=list(_outputs(report)),
        pictures=[picture(sample) for sample in figures.samples],
        found=[found_picture(example) for example in figures.found],
        held_out=_held_out(report),
        disagreements=_disagreements(report),
        error_chart=error_chart(report.layers),
        macs_chart=macs_chart(report.layers),
        columns=columns,
        rows=rows(columns),
        row_heading=1,
        curves=list(_curves(report, figures)),
        making=list(_making(report)),
    )


def _verdict(report: Report) -> str:
    """Return the conversion in a sentence."""
    parts = [f"{report.speedup:.2f}× fewer multiply-adds"]
    if report.latency is not None:
        speed = f"{speed_text(shown_speedup(report.latency), '×')} as measured"
        parts.append(speed if is_steady(report.latency) else f"speed {unsteady_text(report.latency['interval'], '×')}")
    if report.verification is None:
        return f"{', '.join(parts)}: a plan, nothing was solved or written."
    if report.metric is not None:
        figure = _metric(report.metric)
        return f"{', '.join(parts)}; {figure.title} {figure.value} ({figure.detail})."
    fidelity = _fidelity(report)
    value = f"on {fidelity.value} of" if fidelity.value.endswith("%") else f"{fidelity.value} on"
    return f"{', '.join(parts)}; {fidelity.title.lower()} {value} {fidelity.detail}."


def _key_figures(report: Report, file_bytes: tuple[int, int | None]) -> Iterator[KeyFigure]:
    yield KeyFigure("Multiply-adds", fewer_text(report.speedup, "×"), _change(*map(short_number, report.macs)))
    parameters = _change(*map(short_number, report.parameters))
    yield KeyFigure("Parameters", fewer_text(report.parameter_ratio, "×"), parameters)
    before, after = file_bytes
    if after is None:
        yield KeyFigure("File", f"{short_number(before)}B", "nothing was written")
    else:
        sizes = _change(f"{short_number(before)}B", f"{short_number(after)}B")
        yield KeyFigure("File", size_change(before, after, "×"), sizes)
    if (latency := report.latency) is None:
        yield KeyFigure("Latency", "not measured", "")
    else:
        times = _change(*(f"{each} ms" for each in times_text(latency)))
        faster = speed_text(shown_speedup(latency), "×") if is_steady(latency) else "unsteady"
        detail = f"{times}; {latency_conditions(latency)}"
        if not is_steady(latency):
            low, high = (f"{bound:.2f}×" for bound in latency["interval"])
            detail += f"; between {low} and {high}, machine busy?"
        elif bounds := bounds_text(latency, "×"):
            detail += f"; {bounds}"
        yield KeyFigure("Latency", faster, detail)
    yield _fidelity(report) if report.metric is None else _metric(report.metric)


def _metric(metric: Mapping[str, Any]) -> KeyFigure:
    """Return the metric of the original and of the converted network."""
    scores = _change(f"{metric['original']:.4g}", f"{metric['converted']:.4g}")
    return KeyFigure(metric["name"], scores, metric_detail(metric))


def _fidelity(report: Report) -> KeyFigure:
    """Return how close the outputs are: the share of samples with the same top class, else the relative error."""
    if report.verification is None:
        return KeyFigure("Fidelity", "unknown", "nothing was solved: this is a plan")
    outputs, samples = report.verification["outputs"].values(), _held_out(report)
    if agreements := _agreements(report):
        return KeyFigure("Same top class", share_text(agreements[0]), samples)
    if not outputs:
        return KeyFigure("Relative error", "not compared", samples)
    first = next(iter(outputs))
    if (measure := first.get("measure")) is not None:
        return KeyFigure(measure["name"].capitalize(), f"{measure['value']:.3g}", samples)
    return KeyFigure("Relative error", error_text(first["relative_error"]), samples)


def _held_out(report: Report) -> str:
    """Return the number and kind of the samples that verified the conversion; empty for a dry run."""
    return "" if report.verification is None else held_out_text(report.verification["images"], report.calibration)


def _agreements(report: Report) -> list[float]:
    """Return the share of samples with the same top class, of every output that scores classes."""
    outputs = {} if report.verification is None else report.verification["outputs"]
    return [output["agreement"] for output in outputs.values() if output["agreement"] is not None]


def _disagreements(report: Report) -> int:
    """Return on how many held-out samples the top classes differ, in the first output that scores classes."""
    agreements = _agreements(report)
    return round((1 - agreements[0]) * report.verification["images"]) if report.verification and agreements else 0


def _outputs(report: Report) -> Iterator[tuple[str, str, str, str, str]]:
    """Return name, relative error, cosine, agreement and the measure of its kind of every output."""
    for name, output in ({} if report.verification is None else report.verification["outputs"]).items():
        agreement = "" if output["agreement"] is None else share_text(output["agreement"])
        yield name, error_text(output["relative_error"]), f"{output['cosine']:.4f}", agreement, kind_text(output)


def _curves(report: Report, figures: ReportFigures) -> Iterator[EnergyCurve]:
    for number, layer in enumerate(report.layers, 1):
        if (energies := figures.energies.get(layer.name)) is not None:
            yield EnergyCurve(number, layer.name, _chosen(layer, energies), energy_chart(number, layer, energies))


def _chosen(layer: LayerReport, energies: NDArray[np.float64]) -> str:
    if layer.method == "kept":
        return "kept unchanged"
    if layer.width is not None:
        return f"reads {layer.width} channels"
    if layer.input is not None and layer.channel is None:
        return f"input rank {layer.input}, all channels"
    if layer.channel is None:
        return f"spatial rank {layer.spatial}, all channels"
    return f"rank {layer.channel} of {len(energies) - 1} keeps {share_text(float(energies[layer.channel]))}"


def _making(report: Report) -> Iterator[tuple[str, str]]:
    """Return how the conversion was made, as titles and texts."""
    yield "Original", report.input
    yield "Converted", report.output or "not written"
    yield "Requested", _requested(report)
    yield "Calibrated with", calibration_text(report.calibration)
    yield "Seed", str(report.seed)
    yield "Seconds", seconds_text(report.seconds)
    yield "Peak memory", f"{short_number(report.peak_memory_bytes)}B"


def _requested(report: Report) -> str:
    if report.max_drop is not None:
        wanted = loss_text(report.max_drop, report.max_drop["wanted"])
        return f"{report.max_drop['loss']} at most {wanted}: {drop_text(report.max_drop)}"
    return "a given plan" if report.requested is None else f"{report.requested:g}×"


def _change(before: str, after: str) -> str:
    return f"{before} → {after}"
