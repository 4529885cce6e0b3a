"""A conversion as one HTML page that loads nothing: whether it is good can be told by looking.

Needs the extra ``report``: Jinja2 fills the template in, matplotlib draws the charts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.report.charts import energy_chart, error_chart, macs_chart
from onnx_lowrank.report.figures import ReportFigures
from onnx_lowrank.report.pictures import picture
from onnx_lowrank.report.report import LayerReport, Report
from onnx_lowrank.report.rows import columns, layer_rows
from onnx_lowrank.report.text import drop_text, error_text, share_text, short_number

_PACKAGES = {"Jinja2": "jinja2", "matplotlib": "matplotlib.figure"}


@dataclass(frozen=True)
class Figure:
    """A number of the headline.

    Attributes:
        title: what it is.
        value: the number, with its unit.
        detail: where it comes from.
    """

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Curve:
    """An energy curve of the page.

    Attributes:
        number: of the layer in the table.
        name: of the layer.
        caption: what was chosen.
        chart: as SVG.
    """

    number: int
    name: str
    caption: str
    chart: str


def check_page_packages(where: str) -> None:
    """Refuse early to make a page where it cannot be made.

    Args:
        where: what wants it, for the message.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
    """
    for package, module in _PACKAGES.items():
        try:
            import_module(module)
        except ImportError as error:
            raise MissingDependencyError(
                f"{where}: {package}, which makes the page, is not installed ({error}): "
                "pip install 'onnx-lowrank[report]'"
            ) from error


def filled_in(template: str, **values: Any) -> str:
    """A template of this folder, filled in.

    Args:
        template: its name.
        **values: what it asks for, all of it.
    """
    import jinja2  # noqa: PLC0415 - an extra

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnx_lowrank", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def to_html(report: Report, figures: ReportFigures) -> str:
    """The page of a conversion; the same bytes for the same report and evidence.

    Args:
        report: its numbers.
        figures: its curves and pictures.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
    """
    check_page_packages("to_html")
    pictures = [picture(sample) for sample in figures.samples]
    return filled_in(
        "page.html.j2",
        report=report,
        name=PurePath(report.input).name,
        verdict=_verdict(report),
        figures=list(_figures(report, figures)),
        outputs=list(_outputs(report)),
        pictures=pictures,
        apart=_apart(report),
        error_chart=error_chart(report.layers),
        macs_chart=macs_chart(report.layers),
        columns=columns(report),
        rows=layer_rows(report, figures),
        curves=list(_curves(report, figures)),
        making=list(_making(report)),
    )


def _verdict(report: Report) -> str:
    """The conversion in a sentence."""
    parts = [f"{report.speedup:.2f}× fewer multiply-adds"]
    if report.latency is not None:
        parts.append(f"{report.latency['speedup']:.2f}× faster as measured")
    if report.verification is None:
        return f"{', '.join(parts)}: a plan, nothing was solved or written."
    fidelity = _fidelity(report)
    value = f"on {fidelity.value} of" if fidelity.value.endswith("%") else f"{fidelity.value} on"
    return f"{', '.join(parts)}; {fidelity.title.lower()} {value} {fidelity.detail}."


def _figures(report: Report, figures: ReportFigures) -> Iterator[Figure]:
    macs, parameters = report.macs, report.parameters
    yield Figure("Multiply-adds", f"{report.speedup:.2f}× fewer", _change(*map(short_number, macs)))
    ratio = parameters[0] / max(1, parameters[1])
    yield Figure("Parameters", f"{ratio:.2f}× fewer", _change(*map(short_number, parameters)))
    before, after = figures.file_bytes
    if after is None:
        yield Figure("File", f"{short_number(before)}B", "nothing was written")
    else:
        yield Figure(
            "File",
            f"{before / max(1, after):.2f}× smaller",
            _change(*(f"{short_number(each)}B" for each in (before, after))),
        )
    if (latency := report.latency) is None:
        yield Figure("Latency", "not measured", "")
    else:
        times = _change(*(f"{latency[key]:.3g} ms" for key in ("before_ms", "after_ms")))
        where = f"batch {latency['batch']}, {threads_text(latency['threads'])}"
        yield Figure("Latency", f"{latency['speedup']:.2f}× faster", f"{times}; {where}")
    yield _fidelity(report)


def _fidelity(report: Report) -> Figure:
    """How close the outputs are: of a classifier how often the top class is the same, else the relative error."""
    if report.verification is None:
        return Figure("Fidelity", "not known", "nothing was solved: this is a plan")
    images, outputs = report.verification["images"], report.verification["outputs"]
    where = f"{images} {'made-up' if report.calibration.synthetic else 'held-out'} samples"
    for found in outputs.values():
        if found["agreement"] is not None:
            return Figure("Same top class", share_text(found["agreement"]), where)
    found = next(iter(outputs.values()))
    return Figure("Relative error", error_text(found["relative_error"]), where)


def _apart(report: Report) -> int:
    """Held-out samples on whose top class the models disagree, of the first output that has classes."""
    outputs = {} if report.verification is None else report.verification["outputs"]
    shares = [found["agreement"] for found in outputs.values() if found["agreement"] is not None]
    return round((1 - shares[0]) * report.verification["images"]) if report.verification and shares else 0


def _outputs(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Name, relative error, cosine and agreement of every output."""
    for name, found in ({} if report.verification is None else report.verification["outputs"]).items():
        agreement = "" if found["agreement"] is None else share_text(found["agreement"])
        yield name, error_text(found["relative_error"]), f"{found['cosine']:.4f}", agreement


def _curves(report: Report, figures: ReportFigures) -> Iterator[Curve]:
    for number, layer in enumerate(report.layers, 1):
        if (energies := figures.energies.get(layer.name)) is not None:
            yield Curve(number, layer.name, _chosen(layer, energies), energy_chart(number, layer, energies))


def _chosen(layer: LayerReport, energies: NDArray[np.float64]) -> str:
    if layer.method == "kept":
        return "kept as it is"
    if layer.channel is None:
        return f"spatial rank {layer.spatial}, all channels"
    return f"rank {layer.channel} of {len(energies) - 1} keeps {share_text(float(energies[layer.channel]))}"


def _making(report: Report) -> Iterator[tuple[str, str]]:
    """How it was made, as titles and texts."""
    calibration = report.calibration
    yield "Original", report.input
    yield "Converted", report.output or "not written"
    yield "Asked for", _asked(report)
    positions = f"up to {calibration.positions_per_image} positions each"
    yield (
        "Calibrated with",
        f"{calibration.images} samples of {calibration.source}, {positions}, on {calibration.provider}",
    )
    yield "Seed", str(report.seed)
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items() if stage != "total")
    yield "Seconds", f"{report.seconds['total']:.1f} ({stages})"
    yield "Peak memory", f"{short_number(report.peak_memory_bytes)}B"


def _asked(report: Report) -> str:
    if report.max_drop is not None:
        return f"{report.max_drop['loss']} at most {report.max_drop['wanted']:.2%}: {drop_text(report.max_drop)}"
    return "a given plan" if report.requested is None else f"{report.requested:g}×"


def _change(before: str, after: str) -> str:
    return f"{before} → {after}"
