"""``onnx-lowrank samples``: what a network reads, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from onnx_lowrank.cli.files import check_outputs
from onnx_lowrank.cli.help import option
from onnx_lowrank.cli.options import (
    data_files,
    data_options,
    read_data,
    read_inputs,
    read_preprocessing,
    run_options,
)
from onnx_lowrank.cli.param_types import FilePath
from onnx_lowrank.cli.program import Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.commands.samples import save_samples
from onnx_lowrank.errors import OutputError


@click.command(
    "samples",
    cls=Command,
    short_help="Write what a network reads, for other tools.",
    epilog="Example: onnx-lowrank samples model.onnx calibration.npz --data images/",
)
@click.argument("model", type=FilePath(), metavar="IN.onnx")
@click.argument("output", type=FilePath(), metavar="OUT.npz")
@data_options
@option("--force", is_flag=True, help="Overwrite OUT.npz.")
@run_options("up to 256")
def samples(model: Path, output: Path, **options: Any) -> None:
    """Write samples after preprocessing: one array per input, first axis = samples."""
    quiet, force = options.pop("quiet"), options.pop("force")
    for unused in ("debug", "provider", "ep_library", "threads"):  # nothing is run
        options.pop(unused)
    if output.suffix.lower() != ".npz":
        raise OutputError(f"{output}: .npz is wanted: rename it")
    inputs = data_files(options["data"], options["data_loader"])
    if model.is_file():  # a missing one has a message of its own
        check_outputs(model, output, inputs=inputs, reports=[], force=force)
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), model)
    with watching(quiet=quiet) as watch:
        shapes = save_samples(
            model, data, output, preprocessing=preprocessing, force=force, progress=watch, **read_inputs(options),
            **options,
        )  # fmt: skip
    if not quiet:
        console = Console(highlight=False)
        for name, shape in shapes.items():
            console.print(f"{name}: {' x '.join(map(str, shape))}", markup=False, soft_wrap=True)
        console.print(f"written     {output}", markup=False, soft_wrap=True)
