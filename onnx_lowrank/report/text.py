"""Format reports for people: tables and lines for a terminal, and the phrases that all kinds of report share."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.ranks.estimate import LossEstimate, verdict
from onnx_lowrank.report.curve import CurvePoint, CurveReport
from onnx_lowrank.report.names import fit_names
from onnx_lowrank.report.report import Calibration, LayerReport, Report

_LINE_WIDTH = 100
_ESTIMATE_NOTE = (
    "predicted from the errors of single layers before anything is solved: an output's relative error is about "
    "that, as found in networks of thin layers (1 x 1, depthwise), and often much less where kernels are large"
)


def layer_table(report: Report, columns: int | None = None) -> Table:
    """Return a table for a terminal: one row per layer.

    Args:
        report: of a conversion.
        columns: of the terminal, which names are cut to fit into; None where lines may have any length.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ["layer", "method", "rank", "MACs", "after", "energy", "error"]
    for title in titles:
        table.add_column(title, justify="left" if title in titles[:2] else "right", no_wrap=True)
    for row in fit_names([titles, *map(_row, report.layers)], columns)[1:]:
        table.add_row(*map(Text, row))  # as text, not markup: names may hold brackets
    return table


def headline(report: Report) -> list[str]:
    """Return a summary in a few lines.

    Args:
        report: of a conversion.
    """
    macs, parameters = report.macs, report.parameters
    lines = [
        f"MACs        {short_number(macs[0])} -> {short_number(macs[1])} ({fewer_text(report.speedup)})",
        f"parameters  {short_number(parameters[0])} -> {short_number(parameters[1])} "
        f"({fewer_text(report.parameter_ratio)})",
    ]
    if None not in report.file_bytes:
        sizes = " -> ".join(f"{short_number(size or 0)}B" for size in report.file_bytes)
        lines.append(f"file        {sizes} ({size_change(*report.file_bytes)})")
    if (latency := report.latency) is not None:
        before, after = times_text(latency)
        faster, conditions = faster_text(latency), latency_conditions(latency)
        separator = "," if is_steady(latency) else ""  # behind a question mark
        lines.append(labelled("latency", f"{before} -> {after} ms ({faster}{separator} {conditions})"))
    lines.append(f"calibrated  {calibration_text(report.calibration)}")
    if report.preview:
        lines.append("preview     a first look: the whole conversion takes longer and loses less")
    if report.verification is None and report.predicted_error is not None:
        word = verdict(report.predicted_error)
        lines.append(f"predicted   relative error of about {report.predicted_error:.2f} ({word})")
    if report.verification is not None:
        lines.append("verified    the written file: its graph, multiply-adds, shapes and types are as they should be")
        for name, fidelity in report.verification["outputs"].items():
            agreement = "" if fidelity["agreement"] is None else f", same top class {fidelity['agreement']:.1%}"
            error = f"relative error {error_text(fidelity['relative_error'])}"
            lines.append(
                f"{closeness(fidelity):<12}{name}: {kind_text(fidelity, ', ')}{error}{agreement} "
                f"on {report.verification['images']} held-out samples"
            )
    if report.metric is not None:
        lines.append(f"metric      {metric_text(report.metric)}")
    if report.max_drop is not None:
        lines.append(f"max-drop    {report.max_drop['wanted']:.4g}: {drop_text(report.max_drop)}")
    return [*lines, f"seconds     {seconds_text(report.seconds)}"]


def estimate_lines(estimates: Sequence[LossEstimate]) -> list[str]:
    """Return what speedups are predicted to lose, with what the prediction is; nothing where there is none.

    Args:
        estimates: of a dry run, or of an inspection with data.
    """
    if not estimates:
        return []
    lines = ["", "speedup  predicted error"]
    for each in estimates:
        error = "" if each.error is None else f"{each.error:.2f} "
        worst = "" if each.worst_layer is None else f"; most in {each.worst_layer}: {each.worst_error:.2f}"
        lines.append(f"{f'{each.speedup:g}x':<9}{error}({each.verdict}){worst}")
    return [*lines, _ESTIMATE_NOTE]


def kind_text(fidelity: Mapping[str, Any], end: str = "") -> str:
    """Return how close an output is by the measure of its kind, and the kind; empty where it has none.

    Args:
        fidelity: its entry in the JSON report.
        end: behind it.

    >>> kind_text({"kind": "map", "measure": {"name": "overlap of marked areas", "value": 0.91234}}, ", ")
    'overlap of marked areas 0.912 (map), '
    >>> kind_text({})
    ''
    """
    measure = fidelity.get("measure")
    return "" if measure is None else f"{measure['name']} {measure['value']:.3g} ({fidelity['kind']}){end}"


def closeness(fidelity: Mapping[str, Any]) -> str:
    """Return a word for the quality of an output.

    Args:
        fidelity: its entry in the JSON report.

    >>> closeness({"close": False}), closeness({"close": None})
    ('not close', 'random')
    """
    return {True: "close", False: "not close", None: "random"}[fidelity["close"]]


def size_change(before: int | None, after: int | None, times: str = "x") -> str:
    """Return how much smaller, or larger, a file is than before.

    >>> size_change(300, 150), size_change(100, 250)
    ('2.00x smaller', '2.50x larger')
    """
    first, second = max(1, before or 0), max(1, after or 0)
    return f"{second / first:.2f}{times} larger" if second > first else f"{first / second:.2f}{times} smaller"


def fewer_text(ratio: float, times: str = "x") -> str:
    """Return how many times fewer there are than before, or more.

    >>> fewer_text(2.0), fewer_text(0.8)
    ('2.00x fewer', '1.25x more')
    """
    return f"{1 / ratio:.2f}{times} more" if ratio and round(ratio, 2) < 1 else f"{ratio:.2f}{times} fewer"


def times_text(latency: Mapping[str, Any]) -> tuple[str, str]:
    """Return the milliseconds before and after, as they are shown.

    Args:
        latency: the entry ``latency`` of the JSON report.
    """
    return f"{latency['before_ms']:.4g}", f"{latency['after_ms']:.4g}"


def faster_text(latency: Mapping[str, Any], times: str = "x") -> str:
    """Return how many times as fast the converted network is, with bounds; the bounds alone where it is unsteady.

    Args:
        latency: the entry ``latency`` of the JSON report.
        times: the sign behind a factor.
    """
    if not is_steady(latency):
        return unsteady_text(latency["interval"], times)
    bounds = bounds_text(latency)
    return f"{speed_text(shown_speedup(latency), times)}{bounds and f', {bounds}'}"


def shown_speedup(latency: Mapping[str, Any]) -> float:
    """Return the ratio of the milliseconds that are shown, so that readers who divide them find the same."""
    before, after = map(float, times_text(latency))
    return before / after


def speed_text(ratio: float, times: str = "x") -> str:
    """Return how many times as fast, or as slow.

    >>> speed_text(1.06), speed_text(0.98), speed_text(1.001)
    ('1.06x faster', '1.02x slower', 'as fast')
    """
    if f"{ratio:.2f}" == "1.00":
        return "as fast"
    return f"{ratio:.2f}{times} faster" if ratio > 1 else f"{1 / ratio:.2f}{times} slower"


def bounds_text(latency: Mapping[str, Any], times: str = "") -> str:
    """Return the bounds of a speedup as factors in the direction of the speedup; nothing where they are one number.

    Args:
        latency: the entry ``latency`` of the JSON report.
        times: the sign behind a factor.

    >>> bounds_text({"interval": [1.04, 1.08]}), bounds_text({"interval": [0.8, 0.9]}, "x")
    ('1.04 to 1.08', '1.11x to 1.25x')
    >>> bounds_text({"interval": [0.98, 1.03]})
    '1.02x slower to 1.03x faster'
    """
    low, high = latency.get("interval") or (1.0, 1.0)
    if f"{low:.2f}" == f"{high:.2f}":
        return ""
    if low >= 1:
        return f"{low:.2f}{times} to {high:.2f}{times}"
    if high <= 1:
        return f"{1 / high:.2f}{times} to {1 / low:.2f}{times}"
    return f"{speed_text(low, times or 'x')} to {speed_text(high, times or 'x')}"


def is_steady(latency: Mapping[str, Any] | None) -> bool:
    """Return whether the entry ``latency`` of a JSON report names one speedup; reports of old do not say."""
    return latency is None or bool(latency.get("steady", True))


def unsteady_text(interval: Sequence[float], times: str = "x") -> str:
    """Return what is known of a speedup that changes from round to round.

    >>> unsteady_text([1.25, 5.5])
    'unsteady: between 1.25x and 5.50x, machine busy?'
    """
    low, high = interval
    return f"unsteady: between {low:.2f}{times} and {high:.2f}{times}, machine busy?"


def latency_conditions(latency: Mapping[str, Any]) -> str:
    """Return the batch size, the threads and the runtime of a latency measurement.

    Args:
        latency: of a report; the runtime is left out where that does not know it.
    """
    runtime = latency.get("runtime")
    parts = [f"batch {latency['batch']}", threads_text(latency["threads"])]
    if runtime is not None:
        precision = "" if runtime["precision"] == "f32" else f" in {runtime['precision']}"
        parts.append(f"{runtime['name']} {runtime['version']}{precision}")
    return ", ".join(parts)


def calibration_text(calibration: Calibration) -> str:
    """Return what a network was calibrated with."""
    positions = f"up to {calibration.positions_per_image} positions each"
    pixels = "" if calibration.preprocessing is None else f", pixels as {calibration.preprocessing}"
    return f"{calibration.images} samples of {calibration.source}, {positions}, on {calibration.provider}{pixels}"


def held_out_text(count: int, calibration: Calibration) -> str:
    """Return a number of verification samples, and of which kind they are."""
    return f"{count} {'synthetic' if calibration.synthetic else 'held-out'} samples"


def seconds_text(seconds: Mapping[str, float]) -> str:
    """Return the total time and that of each stage.

    Args:
        seconds: by stage, with the total under ``total``.
    """
    stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in seconds.items() if stage != "total")
    return f"{seconds['total']:.1f} ({stages})"


def drop_text(max_drop: Mapping[str, Any]) -> str:
    """Return the result of a search for the largest speedup, with the confidence interval of its loss.

    Args:
        max_drop: the entry ``max_drop`` of the JSON report.
    """
    loss, searched_on = loss_text(max_drop, max_drop["found"]), max_drop["search_images"]
    text = f"{max_drop['speedup']:.2f}x, {max_drop['loss']} {loss} on {searched_on} samples"
    if max_drop["verified_drop"] is None:
        return text
    ends = [loss_text(max_drop, end) for end in max_drop["verified_interval"] or ()]
    interval = f" ({max_drop['confidence']:.0%} interval {' .. '.join(ends)})" if ends else ""
    return f"{text}, {loss_text(max_drop, max_drop['verified_drop'])}{interval} on {max_drop['verified_images']} others"


def loss_text(max_drop: Mapping[str, Any], loss: float) -> str:
    """Return a loss as text: a share in percent, or a number in the unit of a metric.

    Args:
        max_drop: the entry ``max_drop`` of the JSON report, which says what is lost.
        loss: the number.

    >>> loss_text({}, 0.012), loss_text({"drop_type": "absolute"}, 0.012), loss_text({"drop_type": "relative"}, 0.012)
    ('1.20%', '0.012', '1.20%')
    """
    return f"{loss:.4g}" if max_drop.get("drop_type") == "absolute" else f"{loss:.2%}"


def metric_text(metric: Mapping[str, Any], first: str = "original", second: str = "converted") -> str:
    """Return a metric of both networks, with the interval of the difference or that there is none.

    Args:
        metric: the entry ``metric`` of a JSON report.
        first: what to call the original.
        second: what to call the converted network.

    >>> one = {"name": "top1", "original": 0.96, "converted": 0.95, "interval": [0, 0.02], "images": 100, "truth": ""}
    >>> metric_text(one)
    'top1: original 0.96, converted 0.95 (-0.01, 95 % interval -0.02 .. +0, on 100 samples)'
    >>> metric_text({**one, "interval": None, "no_interval": "one number", "truth": "masks"}, "A", "B")
    'top1: A 0.96, B 0.95 (-0.01, no interval (one number), on 100 samples, against masks)'
    """
    before, after = metric["original"], metric["converted"]
    return f"{metric['name']}: {first} {before:.4g}, {second} {after:.4g} ({metric_detail(metric)})"


def metric_detail(metric: Mapping[str, Any]) -> str:
    """Return the change of a metric with its interval, the number of samples and what they are held against.

    Args:
        metric: the entry ``metric`` of a JSON report.
    """
    interval = "no interval"
    if metric["interval"] is None and metric.get("no_interval"):
        interval += f" ({metric['no_interval']})"
    if metric["interval"] is not None:
        low, high = metric["interval"]
        interval = f"95 % interval {0.0 - high:+.2g} .. {0.0 - low:+.2g}"
    against = f", against {metric['truth']}" if metric["truth"] else ""
    change = metric["converted"] - metric["original"]
    return f"{change:+.4g}, {interval}, on {metric['images']} samples{against}"


def curve_table(report: CurveReport) -> Table:
    """Return a table for a terminal of 80 columns: cost and fidelity of every target.

    Args:
        report: of a sweep.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("target", "MACs", "fewer", "params", "ms", "faster", report.met[0].measure, "front"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in report.points:
        table.add_row(*map(Text, _point_cells(point)))
    return table


def curve_notes(report: CurveReport) -> list[str]:
    """Return a line for every point whose speedup is unsteady or that nobody would want.

    Args:
        report: of a sweep.
    """
    lines = []
    for point in report.met:
        if point.latency is not None and not is_steady(point.latency):
            lines.append(labelled("latency", f"{point.requested:g}x: {unsteady_text(point.latency['interval'])}"))
        lines += [labelled("warning", f"{point.requested:g}x: {warning}") for warning in point.warnings]
    return lines


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
        "" if faster is None else shown_faster(faster) if is_steady(point.latency) else "unsteady",
        f"{'! ' if point.not_close else ''}{fidelity_text(point)}",
        "*" if point.on_front else "",
    ]


def shown_faster(speedup: float, times: str = "x") -> str:
    """Return a cell of a column of factors by which networks are faster; the word is there where they are not."""
    return f"{speedup:.2f}{times}" if round(speedup, 2) >= 1 else speed_text(speedup, times)


def fidelity_text(point: CurvePoint) -> str:
    """Return the fidelity of a point: a share in percent, a relative error, or a score of a metric."""
    kind, number = point.fidelity
    if kind == "metric":
        return f"{number:.4g}"
    return error_text(number) if kind == "relative_error" or number is None else f"{number:.2%}"


def labelled(label: str, text: str) -> str:
    """Return a long text behind a label, over as many lines as it takes; options and paths are left whole.

    >>> labelled("warning", "close to nothing").splitlines()
    ['warning     close to nothing']
    """
    return textwrap.fill(
        text, _LINE_WIDTH, initial_indent=f"{label:<12}", subsequent_indent=12 * " ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def short_number(value: float) -> str:
    """Return a count with three digits and a unit prefix.

    >>> short_number(15_346_630_656), short_number(999), short_number(1_500_000)
    ('15.3 G', '999', '1.5 M')
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:  # a number that rounds to 1000 takes the next prefix
            scaled = value / size
            return f"{scaled:.0f} {prefix}" if scaled >= 1000 else f"{scaled:.3g} {prefix}"
    return f"{value:g}"


def error_text(error: float | None) -> str:
    """Return a relative error as text; None stands for an infinite one.

    >>> error_text(0.01234), error_text(None)
    ('0.0123', 'infinite')
    """
    return "infinite" if error is None else f"{error:.4f}"


def share_text(share: float) -> str:
    """Return a share in percent; less than all never reads as 100 %.

    >>> share_text(0.9375), share_text(0.9997), share_text(1.0)
    ('93.8%', '>99.9%', '100.0%')
    """
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _row(layer: LayerReport) -> list[str]:
    kinds = layer.spatial, layer.input, layer.channel, layer.width
    ranks = "+".join(str(rank) for rank in kinds if rank is not None)
    kept = layer.method == "kept"
    return [
        layer.name,
        layer.method,
        ranks,
        short_number(layer.macs[0]),
        "" if kept and layer.macs[0] == layer.macs[1] else short_number(layer.macs[1]),
        "" if kept else f"{layer.energy:.4f}",
        "" if layer.errors is None else f"{layer.errors.solved:.4f}",
    ]
