"""``onnx-lowrank inspect``: every Conv, ConvTranspose, Gemm and MatMul; eligible, or skipped and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_lowrank.cli.help import option
from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.cli.options import FilePath, data_options, read_data, read_inputs, read_preprocessing, run_options
from onnx_lowrank.cli.program import Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.commands import inspect as command
from onnx_lowrank.graph.eligible import min_images
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.report import short_name, short_number


@click.command(
    "inspect",
    cls=Command,
    short_help="List what can be factorized, and why the rest stays.",
    epilog="Example: onnx-lowrank inspect model.onnx",
)
@click.argument("model", type=FilePath(), metavar="IN.onnx")
@option("--energy", is_flag=True, help="Show the ranks that keep energy.")
@data_options
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@run_options("up to 256")
def inspect(model: Path, *, as_json: bool, **options: Any) -> None:
    """List every Conv, ConvTranspose, Gemm and MatMul: what can be factorized, and why the others stay."""
    quiet, energy = options.pop("quiet"), options.pop("energy")
    options.pop("debug")
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), model)
    inputs = read_inputs(options)
    if not energy and data is None:
        inspection = command.inspect(model, **inputs)
    else:
        with watching(quiet=quiet) as watch:
            inspection = command.inspect(
                model, energy=energy, data=data, preprocessing=preprocessing, progress=watch, **inputs, **options
            )
    if as_json:
        click.echo(json.dumps(inspection.to_dict(), indent=2))
    elif energy:
        _show_energies(inspection)
    else:
        _show(inspection)


def _show(inspection: command.Inspection) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("layer", "left"), ("op", "left"), ("MACs", "right"), ("params", "right"), ("", "left")):
        table.add_column(title, justify=justify, no_wrap=bool(title))  # type: ignore[arg-type]
    for row in inspection.rows:
        table.add_row(
            *map(Text, _cells(row, on_data=inspection.source is not None))
        )  # as text, not markup: names may hold brackets
    console.print(table)
    with_data = "" if inspection.source is None else f" with {inspection.source}"
    console.print(
        f"\n{short_number(inspection.macs)} MACs per image, {short_number(inspection.parameters)} parameters, "
        f"{sum(isinstance(row, Layer) for row in inspection.rows)} of {len(inspection.rows)} layers can be factorized"
        f"{with_data}",
        markup=False,
        soft_wrap=True,
    )


def _show_energies(inspection: command.Inspection) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", no_wrap=True)
    for title in ("filters", *(f"{100 * share:g}%" for share in command.SHARES)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for row in inspection.rows:
        table.add_row(*map(Text, _energy_cells(row, inspection.ranks(row.name))))
    console.print(table)
    text = "\nchannel ranks that keep so much of the energy of a layer's responses, from"
    console.print(f"{text} {inspection.source}", markup=False, soft_wrap=True)


def _energy_cells(row: Layer | SkippedLayer, ranks: Mapping[float, int] | None) -> list[str]:
    if isinstance(row, SkippedLayer) or ranks is None:
        reason = row.reason if isinstance(row, SkippedLayer) else "not looked at"
        return [short_name(row.name), *[""] * (1 + len(command.SHARES)), _stays(reason)]
    groups = f"each of {row.groups} groups" if row.groups > 1 else ""
    return [short_name(row.name), str(row.filters // row.groups), *map(str, ranks.values()), groups]


def _stays(reason: str) -> str:
    return f"stays: {with_flags(reason, flags(click.get_current_context()))}"


def _cells(row: Layer | SkippedLayer, *, on_data: bool) -> list[str]:
    common = [short_name(row.name), row.op, short_number(row.macs), short_number(row.parameters)]
    if isinstance(row, SkippedLayer):
        return [*common, _stays(row.reason)]
    kernel = "" if row.channels_last else f"{'x'.join(map(str, row.kernel))}, "
    kernel += f"{row.groups} groups, " if row.groups > 1 else ""
    behind = f"{row.activation.name}{' of a sum' if row.residual else ''}"
    enough = f", from {number} samples on" if (number := min_images(row)) > 1 and not on_data else ""
    return [*common, f"{row.channels} -> {row.filters}, {kernel}{behind}{enough}"]
