"""``onnx-lowrank finetune``: the converted network learns to do again what the original does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.cli.extra import torch_part
from onnx_lowrank.cli.files import check_outputs
from onnx_lowrank.cli.options import FilePath, data_files, data_options, read_data, read_inputs, read_preprocessing
from onnx_lowrank.cli.program import INTERRUPTED, Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.errors import OutputError
from onnx_lowrank.graph import staged, staged_text

_LESSONS = ("original", "labels", "both")
_CHECKPOINT = ".checkpoint"  # behind the name of OUT


@click.command(
    "finetune",
    cls=Command,
    short_help="Train the converted network to do what the original does.",
    epilog="Example: onnx-lowrank finetune a.onnx b.onnx c.onnx --data train/",
)
@click.argument("original", type=FilePath(), metavar="ORIGINAL.onnx")
@click.argument("converted", type=FilePath(), metavar="CONVERTED.onnx")
@click.argument("output", type=FilePath(), metavar="OUT.onnx")
@data_options
@click.option("--learn", type=click.Choice(_LESSONS), default="original", metavar="|".join(_LESSONS),
              help="from the original's outputs, or class folders")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), default=10, metavar="N")
@click.option("--patience", type=click.IntRange(1), metavar="N", help="at most [10]; after N without improvement stop")
@click.option("--batch-size", type=click.IntRange(1), default=128, metavar="B")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), metavar="X", help="[128]; found if not given")
@click.option("--temperature", type=click.FloatRange(0), default=4.0, metavar="T")
@click.option(
    "--match", type=click.FloatRange(0), default=0.0, metavar="W", help="of soft targets [4]; weight of layers"
)
@click.option("--no-normalize", "normalize", is_flag=True, default=True, flag_value=False,
              help="no batch normalization while training")  # fmt: skip
@click.option("--no-augment", "augment", is_flag=True, default=True, flag_value=False, help="no flips and shifts")
@click.option("--samples", type=click.IntRange(1), metavar="N")
@click.option("--held-out", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, metavar="SHARE",
              help="used at all; of these never trained on [0.1]")  # fmt: skip
@click.option("--validation", multiple=True, metavar="[NAME=]PATH", help="judge by these instead, none held out")
@click.option("--resume", is_flag=True, help="go on from OUT.onnx.checkpoint, if there is one")
@click.option("--report", type=FilePath(), metavar="FILE.json")
@click.option("--force", is_flag=True, help="what happened; overwrite OUT.onnx")
@click.option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", metavar="auto|cpu|cuda")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", metavar="auto|fp32|bf16",
              help="where; of forward passes")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 256), metavar="N")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="S", help="of PyTorch; of all randomness")
@click.option("--quiet", is_flag=True)
@click.option("--debug", is_flag=True, help="print less; print tracebacks")
def finetune(original: Path, converted: Path, output: Path, **options: Any) -> None:
    """Train CONVERTED to do what ORIGINAL does, without labels, and write it to OUT.

    Several processes or hosts: accelerate launch --num_processes N -m onnx_lowrank finetune ...
    """
    quiet, report = options.pop("quiet"), options.pop("report")
    resume, force = options.pop("resume"), options.pop("force")
    options.pop("debug")
    reads = [original, converted, *data_files(options["data"], options["data_loader"]),
             *data_files(options["validation"], None)]  # fmt: skip
    checkpoint = output.with_name(output.name + _CHECKPOINT)
    force = force or (resume and checkpoint.is_file())  # what is there was left by what is gone on with
    check_outputs(reads, output, force=force, others=[each for each in (report, checkpoint) if each])
    if report and report.suffix.lower() != ".json":
        raise OutputError(f"--report {report}: .json is wanted: rename it")
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"))
    validation = read_data(options.pop("validation"), None)
    part = torch_part()
    try:
        settings = part.FinetuneSettings(**read_inputs(options), **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with watching(quiet=quiet) as watch:
        result = part.finetune(
            original, converted, data, settings,
            validation=validation, preprocessing=preprocessing, checkpoint=checkpoint, resume=resume, progress=watch,
        )  # fmt: skip
    if result.process:
        return  # another one writes
    with staged(result.model, output):
        if report:
            with staged_text(report, json.dumps(result.to_dict(), indent=2)):
                pass
    if not result.interrupted:
        checkpoint.unlink(missing_ok=True)
    if not quiet:
        _show(result, output)
    if result.interrupted:
        click.echo(
            f"error: interrupted: the best of {len(result.epochs)} epochs was written; --resume goes on", err=True
        )
        raise click.exceptions.Exit(INTERRUPTED)


def _show(result: Any, output: Path) -> None:
    training, held_out = result.samples
    epochs = "1 epoch" if len(result.epochs) == 1 else f"{len(result.epochs)} epochs"
    where = f"epoch {result.best}, on" if result.best else "as it came, on"
    click.echo(f"trained     {epochs} of {training} samples, {result.seconds:.0f} s")
    click.echo(f"before      {result.before}")
    click.echo(f"after       {result.after} ({where} {held_out} held-out samples)")
    click.echo(f"written     {output}")
