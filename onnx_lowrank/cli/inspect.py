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
from onnx_lowrank.cli.options import (
    data_options,
    read_data,
    read_inputs,
    read_preprocessing,
    run_options,
)
from onnx_lowrank.cli.param_types import FilePath
from onnx_lowrank.cli.program import Command
from onnx_lowrank.cli.tables import table_console
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.commands import inspect as command
from onnx_lowrank.graph.eligible import min_images
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.report import estimate_lines, fit_names, short_number

_LAST_COLUMNS = 30  # that reasons have at least, where names are long


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
    console, columns = table_console()
    cells = [_cells(row, inspection.narrowed_by, on_data=inspection.source is not None) for row in inspection.rows]
    console.print(_table(["layer", "op", "MACs", "params", "width", ""], cells, columns))
    with_data = "" if inspection.source is None else f" with {inspection.source}"
    console.print(
        f"\n{short_number(inspection.macs)} MACs per image, {short_number(inspection.parameters)} parameters, "
        f"{sum(isinstance(row, Layer) for row in inspection.rows)} of {len(inspection.rows)} layers can be factorized"
        f"{with_data}",
        markup=False,
        soft_wrap=True,
    )
    _show_widths(console, inspection)
    no_data = ["what a speedup would lose is predicted with --data"] if inspection.source is None else []
    for line in [*no_data, *estimate_lines(inspection.estimates)]:
        console.print(line, markup=False, soft_wrap=True)


def _show_widths(console: Console, inspection: command.Inspection) -> None:
    """Say what the column of widths means, and why other layers read all of their channels."""
    layers = [row for row in inspection.rows if isinstance(row, Layer)]
    follow = {name for row in layers for group in row.read_groups for name in group.followers}
    if choosing := sum(row.narrowable for row in layers):
        text = f"\nwidth: how many channels {choosing} layers may come to read; *: loses some where others read fewer"
        console.print(text, markup=False, soft_wrap=True)
    by_reason: dict[str, list[str]] = {}
    for row in layers:
        if isinstance(row.reads, str) and row.name not in follow:
            by_reason.setdefault(row.reads, []).append(row.name)
    for reason, names in by_reason.items():
        console.print(f"all channels stay that {', '.join(names)} read: {reason}", markup=False, soft_wrap=True)


def _show_energies(inspection: command.Inspection) -> None:
    console, columns = table_console()
    cells = [_energy_cells(row, inspection.ranks(row.name)) for row in inspection.rows]
    console.print(_table(["layer", "filters", *(f"{100 * share:g}%" for share in command.SHARES), ""], cells, columns))
    text = "\nchannel ranks that keep so much of the energy of a layer's responses, from"
    console.print(f"{text} {inspection.source}", markup=False, soft_wrap=True)


def _table(titles: list[str], cells: list[list[str]], columns: int | None) -> Table:
    """Return a table of a layer a row, with words in its last column that wrap in a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        left = title in {"layer", "op", ""}
        table.add_column(title, justify="left" if left else "right", no_wrap=bool(title))
    for row in fit_names([titles, *cells], columns, _LAST_COLUMNS)[1:]:
        table.add_row(*map(Text, row))  # as text, not markup: names may hold brackets
    return table


def _energy_cells(row: Layer | SkippedLayer, ranks: Mapping[float, int] | None) -> list[str]:
    if isinstance(row, SkippedLayer) or ranks is None:
        reason = row.reason if isinstance(row, SkippedLayer) else "not looked at"
        return [row.name, *[""] * (1 + len(command.SHARES)), _stays(reason)]
    groups = f"each of {row.groups} groups" if row.groups > 1 else ""
    return [row.name, str(row.filters // row.groups), *map(str, ranks.values()), groups]


def _stays(reason: str) -> str:
    return f"stays: {with_flags(reason, flags(click.get_current_context()))}"


def _cells(row: Layer | SkippedLayer, narrowed_by: Mapping[str, list[str]], *, on_data: bool) -> list[str]:
    width = f"{row.min_width}-{row.channels}" if isinstance(row, Layer) and row.narrowable else ""
    width += "*" if row.name in narrowed_by else ""
    common = [row.name, row.op, short_number(row.macs), short_number(row.parameters), width]
    if isinstance(row, SkippedLayer):
        return [*common, _stays(row.reason)]
    kernel = "" if row.channels_last else f"{'x'.join(map(str, row.kernel))}, "
    kernel += f"{row.groups} groups, " if row.groups > 1 else ""
    behind = f"{row.activation.name}{' of a sum' if row.residual else ''}"
    enough = f", from {number} samples on" if (number := min_images(row)) > 1 and not on_data else ""
    return [*common, f"{row.channels} -> {row.filters}, {kernel}{behind}{enough}"]
