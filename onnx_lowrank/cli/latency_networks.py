"""``onnx-lowrank latency-networks``: what a device needs to measure a table of latencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from onnx_lowrank.cli.files import check_outputs
from onnx_lowrank.cli.help import option, setting
from onnx_lowrank.cli.options import (
    checked_values,
    data_files,
    data_options,
    layer_options,
    read_data,
    read_inputs,
    read_preprocessing,
    run_options,
)
from onnx_lowrank.cli.param_types import FilePath, Methods
from onnx_lowrank.cli.program import Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.commands.latency_networks import save_latency_networks
from onnx_lowrank.errors import OutputError
from onnx_lowrank.settings import FORMS, Settings


@click.command(
    "latency-networks",
    cls=Command,
    hidden=True,  # from the short list, which fits one screen
    short_help="Write networks to time on a device.",
    epilog="Example: onnx-lowrank latency-networks model.onnx networks.zip --data images/",
)
@click.argument("model", type=FilePath(), metavar="IN.onnx")
@click.argument("output", type=FilePath(), metavar="OUT.zip")
@setting("--method", type=Methods(), metavar="NAME,...", advanced=True,
         values=f"auto; or with commas: {', '.join(FORMS)}", help="Methods allowed, see below.")  # fmt: skip
@data_options
@layer_options
@option("--force", is_flag=True, help="Overwrite OUT.zip.")
@run_options("up to 256")
def latency_networks(model: Path, output: Path, **options: Any) -> None:
    """Write networks, and a script that times them on the device where a model is to run.

    Options are those of the conversion that is to come. The script writes the table for its --latency-table; it needs
    only Python and the runtime's own tool.
    """
    quiet, force = options.pop("quiet"), options.pop("force")
    options.pop("debug")
    if output.suffix.lower() != ".zip":
        raise OutputError(f"{output}: .zip is wanted: rename it")
    inputs = data_files(options["data"], options["data_loader"])
    if model.is_file():  # a missing one has a message of its own
        check_outputs(model, output, inputs=inputs, reports=[], force=force)
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), model)
    with checked_values():
        settings = Settings(cost="latency", **read_inputs(options), **options)
    with watching(quiet=quiet) as watch:
        count = save_latency_networks(
            model, data, output, settings, preprocessing=preprocessing, force=force, progress=watch
        )
    if not quiet:
        console = Console(highlight=False)
        console.print(f"written     {output}, {count} networks", markup=False, soft_wrap=True)
        console.print("unpack it on the device and run: python3 time_networks.py --help", markup=False, soft_wrap=True)
