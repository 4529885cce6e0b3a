"""A conversion as Markdown, to be read in a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.report.report import LayerReport, Report
from onnx_lowrank.report.text import drop_text, error_text, short_number


def to_markdown(report: Report) -> str:
    """Headline, verification and a row per layer.

    Args:
        report: of a conversion.
    """
    return "\n".join([f"# {_cell(report.input)}, {report.speedup:.2f}x fewer multiply-adds", "", *_body(report)]) + "\n"


def _body(report: Report) -> Iterator[str]:
    if report.calibration.synthetic:
        yield "**Calibrated with made-up images**: real ones do better.\n"
    yield from _table(["", "before", "after", "ratio"], _totals(report))
    yield ""
    source, images = _cell(report.calibration.source), report.calibration.images
    yield f"Calibrated with {images} samples of {source} on {report.calibration.provider}, seed {report.seed}."
    if report.verification is not None:
        yield f"Compared on {report.verification['images']} others:\n"
        rows = [
            [_cell(name), error_text(found["relative_error"]), f"{found['cosine']:.4f}", _percent(found["agreement"])]
            for name, found in report.verification["outputs"].items()
        ]
        yield from _table(["output", "relative error", "cosine", "same top class"], rows)
    if report.max_drop is not None:
        yield f"\nAsked for was a loss of at most {report.max_drop['wanted']:.2%}: {drop_text(report.max_drop)}."
    yield ""
    titles = ["layer", "method", "ranks", "multiply-adds", "after", "energy", "error", "why it stays"]
    yield from _table(titles, map(_row, report.layers))
    yield ""
    yield f"onnx-lowrank {report.version}, {report.seconds['total']:.0f} s."


def _totals(report: Report) -> Iterator[Sequence[str]]:
    for title, (before, after) in (("multiply-adds", report.macs), ("parameters", report.parameters)):
        yield [title, short_number(before), short_number(after), f"{before / max(1, after):.2f}x"]
    if (latency := report.latency) is not None:
        where = f"latency, batch {latency['batch']}, {threads_text(latency['threads'])}"
        times = (f"{latency[key]:.3g} ms" for key in ("before_ms", "after_ms"))
        yield [where, *times, f"{latency['speedup']:.2f}x"]


def _row(layer: LayerReport) -> Sequence[str]:
    ranks = [f"{kind} {rank}" for kind, rank in (("spatial", layer.spatial), ("channel", layer.channel)) if rank]
    solved = layer.method != "kept"
    return [
        f"{_cell(layer.name)} ({layer.op})",
        layer.method,
        ", ".join(ranks),
        short_number(layer.macs[0]),
        short_number(layer.macs[1]) if solved else "",
        f"{layer.energy:.4f}" if solved else "",
        f"{layer.errors.solved:.4f}" if layer.errors else "",
        _cell(layer.reason or ""),
    ]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _cell(text: str) -> str:
    """Text that stays in its cell and means nothing to Markdown, whatever a layer is called."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#&~" else letter for letter in text)
    return " ".join(escaped.split())


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
