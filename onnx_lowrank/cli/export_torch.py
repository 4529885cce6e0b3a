"""``onnx-lowrank export-torch``: the network as a program of torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_lowrank.cli.extra import torch_part
from onnx_lowrank.cli.files import check_outputs
from onnx_lowrank.cli.help import option
from onnx_lowrank.cli.options import (
    by_name,
    input_shapes_option,
    show_options,
)
from onnx_lowrank.cli.param_types import FilePath
from onnx_lowrank.cli.program import Command


@click.command(
    "export-torch",
    cls=Command,
    short_help="Write a network as a program for PyTorch.",
    epilog="Example: onnx-lowrank export-torch fast.onnx fast.pt2",
)
@click.argument("model", type=FilePath(), metavar="IN.onnx")
@click.argument("output", type=FilePath(), metavar="OUT.pt2")
@input_shapes_option
@option("--force", is_flag=True, help="Overwrite OUT.pt2.")
@show_options
def export_torch(model: Path, output: Path, **options: Any) -> None:
    """Write a network as a program for PyTorch: torch.export.load(OUT.pt2).module()."""
    check_outputs(model, output, inputs=[], reports=[], force=options["force"])
    part = torch_part()
    part.save_program(part.export_torch(model, by_name(options["input_shapes"], "--input-shapes")), output)
    if not options["quiet"]:
        click.echo(f"written     {output}")
