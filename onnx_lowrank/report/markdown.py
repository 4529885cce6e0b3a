"""The report of a conversion as Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from onnx_lowrank.report.report import LayerReport, Report
from onnx_lowrank.report.text import (
    drop_text,
    error_text,
    fewer_text,
    held_out_text,
    is_steady,
    kind_text,
    latency_conditions,
    loss_text,
    metric_text,
    short_number,
    shown_faster,
    shown_speedup,
    size_change,
    times_text,
    unsteady_text,
)


def to_markdown(report: Report) -> str:
    """Return the totals, the verification and a table of layers as Markdown.

    Args:
        report: of a conversion.
    """
    return "\n".join([f"# {_cell(report.input)}, {report.speedup:.2f}x fewer multiply-adds", "", *_body(report)]) + "\n"


def _body(report: Report) -> Iterator[str]:
    for warning in report.warnings:
        yield f"**Warning**: {_cell(warning.text)}.\n"
    if report.calibration.synthetic:
        yield "**Calibrated with synthetic images**: real images give better results.\n"
    if report.preview:
        yield "**A preview**: the whole conversion takes longer and loses less.\n"
    yield from _table(["", "before", "after", "ratio"], _totals(report))
    yield ""
    source, images = _cell(report.calibration.source), report.calibration.images
    yield f"Calibrated with {images} samples of {source} on {report.calibration.provider}, seed {report.seed}."
    if report.verification is not None:
        yield f"Compared on {held_out_text(report.verification['images'], report.calibration)}:\n"
        outputs = report.verification["outputs"]
        rows = [_output_row(name, fidelity) for name, fidelity in outputs.items()]
        titles = ["output", "relative error", "cosine", "same top class", "judged by"]
        width = len(titles) if any(row[-1] for row in rows) else len(titles) - 1
        yield from _table(titles[:width], [row[:width] for row in rows])
    if report.metric is not None:
        yield f"\nMetric {_cell(metric_text(report.metric))}."
    if report.max_drop is not None:
        wanted = loss_text(report.max_drop, report.max_drop["wanted"])
        yield f"\nRequested: a loss of at most {wanted}. Result: {_cell(drop_text(report.max_drop))}."
    yield ""
    titles = ["layer", "method", "ranks", "multiply-adds", "after", "energy", "error", "reason"]
    yield from _table(titles, map(_layer_row, report.layers))
    yield ""
    yield f"onnx-lowrank {report.version}, {report.seconds['total']:.0f} s."


def _totals(report: Report) -> Iterator[Sequence[str]]:
    yield ["multiply-adds", *map(short_number, report.macs), f"{report.speedup:.2f}x"]
    yield ["parameters", *map(short_number, report.parameters), _fewer(report.parameter_ratio)]
    if None not in report.file_bytes:
        sizes = (f"{short_number(size or 0)}B" for size in report.file_bytes)
        yield ["file", *sizes, size_change(*report.file_bytes)]
    if (latency := report.latency) is not None:
        times = (f"{each} ms" for each in times_text(latency))
        ratio = shown_faster(shown_speedup(latency)) if is_steady(latency) else unsteady_text(latency["interval"])
        yield [f"latency, {latency_conditions(latency)}", *times, ratio]


def _fewer(ratio: float) -> str:
    """Return a ratio of counts; the word is there where they grow."""
    return f"{ratio:.2f}x" if round(ratio, 2) >= 1 else fewer_text(ratio)


def _output_row(name: str, fidelity: Mapping[str, Any]) -> Sequence[str]:
    agreement = fidelity["agreement"]
    share = "" if agreement is None else f"{agreement:.1%}"
    kind = _cell(kind_text(fidelity))
    return [_cell(name), error_text(fidelity["relative_error"]), f"{fidelity['cosine']:.4f}", share, kind]


def _layer_row(layer: LayerReport) -> Sequence[str]:
    ranks = [f"{kind} {rank}" for kind, rank in _ranks(layer) if rank]
    solved = layer.method != "kept"
    return [
        f"{_cell(layer.name)} ({layer.op})",
        layer.method,
        ", ".join(ranks),
        short_number(layer.macs[0]),
        short_number(layer.macs[1]) if solved or layer.macs[1] != layer.macs[0] else "",
        f"{layer.energy:.4f}" if solved else "",
        f"{layer.errors.solved:.4f}" if layer.errors else "",
        _cell(layer.reason or ""),
    ]


def _ranks(layer: LayerReport) -> Sequence[tuple[str, int | None]]:
    return ("spatial", layer.spatial), ("input", layer.input), ("channel", layer.channel), ("width", layer.width)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _cell(text: str) -> str:
    """Return text for one cell, with whatever Markdown would interpret escaped."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#&~" else letter for letter in text)
    return " ".join(escaped.split())
