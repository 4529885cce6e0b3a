"""A conversion as a table and a few lines for people; rich renderables, nothing is printed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.report.curve import LOSSES, CurvePoint, CurveReport
from onnx_lowrank.report.report import LayerReport, Report

_NAME_WIDTH = 20


def layer_table(report: Report) -> Table:
    """One row per Conv, Gemm and MatMul: method, ranks, multiply-adds, energy, error; fits 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for title in ("rank", "MACs", "after", "energy", "error"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in report.layers:
        table.add_row(*map(Text, _row(layer)))  # as text, not markup: names may hold brackets
    return table


def headline(report: Report) -> list[str]:
    """What it comes to, in a few lines."""
    macs, parameters = report.macs, report.parameters
    lines = [
        f"MACs        {short_number(macs[0])} -> {short_number(macs[1])} ({report.speedup:.2f}x fewer)",
        f"parameters  {short_number(parameters[0])} -> {short_number(parameters[1])} "
        f"({parameters[0] / max(1, parameters[1]):.2f}x fewer)",
        *_latency_line(report),
        f"calibrated  {report.calibration.images} samples of {report.calibration.source}, up to "
        f"{report.calibration.positions_per_image} positions each, on {report.calibration.provider}",
    ]
    if report.verification is not None:
        for name, found in report.verification["outputs"].items():
            agreement = "" if found["agreement"] is None else f", same top class {found['agreement']:.1%}"
            lines.append(
                f"verified    {name}: relative error {error_text(found['relative_error'])}{agreement} "
                f"on {report.verification['images']} held-out samples"
            )
    if report.max_drop is not None:
        lines.append(f"max-drop    {report.max_drop['wanted']:.4g}: {drop_text(report.max_drop)}")
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items() if stage != "total")
    return [*lines, f"seconds     {report.seconds['total']:.1f} ({stages})"]


def _latency_line(report: Report) -> list[str]:
    if report.latency is None:
        return []
    before, after, speedup, batch, threads = (
        report.latency[key] for key in ("before_ms", "after_ms", "speedup", "batch", "threads")
    )
    where = f"batch {batch}, {threads_text(threads)}"
    return [f"latency     {before:.3g} -> {after:.3g} ms ({speedup:.2f}x faster, {where})"]


def drop_text(found: Mapping[str, Any]) -> str:
    """What a search for the largest speedup found, and how sure that is.

    Args:
        found: the entry of ``max_drop`` in the JSON report.
    """
    text = f"{found['speedup']:.2f}x, {found['loss']} {found['found']:.2%} on {found['search_images']} samples"
    if found["verified_drop"] is None:
        return text
    between = found["verified_interval"]
    sure = "" if between is None else " ({:.0%} interval {:.2%} .. {:.2%})".format(found["confidence"], *between)
    return f"{text}, {found['verified_drop']:.2%}{sure} on {found['verified_images']} others"


def curve_table(report: CurveReport) -> Table:
    """One row per target: cost and fidelity, those on the front marked; fits 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    kinds = [point.fidelity[0] for point in report.met]
    for title in ("target", "MACs", "fewer", "params", "ms", "faster", LOSSES[kinds[0]], "front"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in report.points:
        table.add_row(*map(Text, _point_cells(point)))
    return table


def _point_cells(point: CurvePoint) -> list[str]:
    if point.error is not None:
        return [f"{point.requested:g}x", "not met"]
    speedups = point.speedups or {}
    faster = speedups["latency"]
    return [
        f"{point.requested:g}x",
        short_number(point.macs or 0),
        f"{speedups['macs']:.2f}x",
        short_number(point.parameters or 0),
        "" if point.milliseconds is None else f"{point.milliseconds:.3g}",
        "" if faster is None else f"{faster:.2f}x",
        fidelity_text(point),
        "*" if point.on_front else "",
    ]


def fidelity_text(point: CurvePoint) -> str:
    """What a point is judged by: a share in percent, or a relative error."""
    kind, number = point.fidelity
    return error_text(number) if kind == "relative_error" or number is None else f"{number:.2%}"


def short_number(value: float) -> str:
    """A count with a unit prefix and three digits.

    >>> short_number(15_346_630_656), short_number(999), short_number(1_500_000)
    ('15.3 G', '999', '1.5 M')
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:  # what rounds to 1000 takes the next prefix
            scaled = value / size
            return f"{scaled:.0f} {prefix}" if scaled >= 1000 else f"{scaled:.3g} {prefix}"
    return f"{value:g}"


def error_text(error: float | None) -> str:
    """A relative error, which is None where there is no number for it.

    >>> error_text(0.01234), error_text(None)
    ('0.0123', 'infinite')
    """
    return "infinite" if error is None else f"{error:.4f}"


def share_text(share: float) -> str:
    """A share in percent; what is not all of it never reads as if it were.

    >>> share_text(0.9375), share_text(0.9997), share_text(1.0)
    ('93.8%', '>99.9%', '100.0%')
    """
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def short_name(name: str, width: int = _NAME_WIDTH) -> str:
    """A name cut from the left, where exporters put what all names share.

    >>> short_name("model/backbone/stage1/conv1", 12)
    '...ge1/conv1'
    """
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _row(layer: LayerReport) -> list[str]:
    ranks = "+".join(str(rank) for rank in (layer.spatial, layer.channel) if rank is not None)
    kept = layer.method == "kept"
    return [
        short_name(layer.name),
        layer.method,
        ranks,
        short_number(layer.macs[0]),
        "" if kept else short_number(layer.macs[1]),
        "" if kept else f"{layer.energy:.4f}",
        "" if layer.errors is None else f"{layer.errors.solved:.4f}",
    ]
