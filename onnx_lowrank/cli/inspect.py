"""``onnx-lowrank inspect``: every Conv, Gemm and MatMul; eligible, or skipped and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_lowrank import examine
from onnx_lowrank.cli.options import FilePath, read_inputs, shape_options
from onnx_lowrank.cli.program import Command
from onnx_lowrank.layer import Layer, SkippedLayer
from onnx_lowrank.report import short_name, short_number


@click.command("inspect", cls=Command, epilog="Example: onnx-lowrank inspect model.onnx")
@click.argument("model", type=FilePath(), metavar="IN.onnx")
@shape_options
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--debug", is_flag=True, help="print tracebacks")
def inspect(model: Path, *, as_json: bool, **options: Any) -> None:
    """List every Conv, Gemm and MatMul: what can be factorized, and why the others stay."""
    found = examine.inspect(model, **read_inputs(options))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("layer", "left"), ("op", "left"), ("MACs", "right"), ("params", "right"), ("", "left")):
        table.add_column(title, justify=justify, no_wrap=bool(title))  # type: ignore[arg-type]
    for row in found.rows:
        table.add_row(*map(Text, _cells(row)))  # as text, not markup: names may hold brackets
    console.print(table)
    console.print(
        f"\n{short_number(found.macs)} MACs per image, {short_number(found.parameters)} parameters, "
        f"{sum(isinstance(row, Layer) for row in found.rows)} of {len(found.rows)} layers can be factorized",
        soft_wrap=True,
    )


def _cells(row: Layer | SkippedLayer) -> list[str]:
    common = [short_name(row.name), row.op, short_number(row.macs), short_number(row.parameters)]
    if isinstance(row, SkippedLayer):
        return [*common, f"stays: {row.reason}"]
    kernel = "" if row.channels_last else f"{'x'.join(map(str, row.kernel))}, "
    kernel += f"{row.groups} groups, " if row.groups > 1 else ""
    behind = f"{row.activation.name}{' of a sum' if row.residual else ''}"
    return [*common, f"{row.channels} -> {row.filters}, {kernel}{behind}"]
