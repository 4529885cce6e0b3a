"""``onnx-lowrank compare``: how close model B is to model A, and how often both are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.cli.help import option
from onnx_lowrank.cli.options import (
    check_class_names,
    label_options,
    metric_option,
    needed_data_options,
    read_data,
    read_inputs,
    read_metric,
    read_preprocessing,
    run_options,
)
from onnx_lowrank.cli.param_types import FilePath
from onnx_lowrank.cli.program import Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.commands import compare as command
from onnx_lowrank.report.text import kind_text, metric_text
from onnx_lowrank.verify import Comparison


@click.command(
    "compare",
    cls=Command,
    short_help="Measure how close one model is to another on data.",
    epilog="Example: onnx-lowrank compare a.onnx b.onnx --data images/ --labels",
)
@click.argument("first", type=FilePath(), metavar="A.onnx")
@click.argument("second", type=FilePath(), metavar="B.onnx")
@needed_data_options
@metric_option
@label_options("Measure accuracy by class folders.")
@option("--tensor", "tensors", multiple=True, metavar="NAME", help="Compare an inner tensor; repeatable.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@run_options("all")
def compare(first: Path, second: Path, **options: Any) -> None:
    """Measure the fidelity of B to A on data; with --labels the accuracy of both."""
    as_json, quiet = options.pop("as_json"), options.pop("quiet")
    options.pop("debug")
    check_class_names(options)
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), first)
    inputs, metric = read_inputs(options), read_metric(options.pop("metric"))
    with watching(quiet=quiet) as watch:
        comparison = command.compare(
            first, second, data, metric=metric, preprocessing=preprocessing, progress=watch, **inputs, **options
        )
    click.echo(json.dumps(comparison.to_dict(), indent=2) if as_json else "\n".join(_lines(comparison)))


def _lines(comparison: Comparison) -> list[str]:
    lines = []
    for name, fidelity in comparison.outputs.items():
        agreement = "" if fidelity.agreement is None else f", same top class {fidelity.agreement:.2%}"
        kind = kind_text(fidelity.to_dict(), ", ")
        lines.append(
            f"{name}: {kind}relative error {fidelity.relative_error:.4f}, cosine {fidelity.cosine:.4f}{agreement}"
        )
    if comparison.accuracy is not None:
        for name, (a, b) in vars(comparison.accuracy).items():
            lines.append(f"{name}: A {a:.2%}, B {b:.2%} ({100 * (b - a):+.2f} points)")
    if comparison.metric is not None:
        lines.append(metric_text(comparison.metric.to_dict(), "A", "B"))
    return [*lines, f"images: {comparison.images}"]
