"""``onnx-lowrank finetune``: train the converted network to do what the original does."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.cli.extra import torch_part
from onnx_lowrank.cli.files import check_outputs
from onnx_lowrank.cli.help import off_switch, option, setting
from onnx_lowrank.cli.options import (
    FilePath,
    data_files,
    data_options,
    read_data,
    read_inputs,
    read_preprocessing,
    show_options,
)
from onnx_lowrank.cli.program import INTERRUPTED, Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.errors import OutputError
from onnx_lowrank.graph import Publication, add_texts, write_model
from onnx_lowrank.settings import LEARN_CHOICES, PRECISIONS, TRAINING_PROVIDERS, FinetuneSettings

tuning = partial(setting, settings=FinetuneSettings)
_CHECKPOINT = ".checkpoint"  # appended to the name of OUT


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
@tuning("--learn", type=click.Choice(LEARN_CHOICES), help="What from; labels are class folders.")
@tuning("--epochs", type=click.IntRange(1), metavar="N", help="Passes over the samples at most.")
@tuning("--patience", type=click.IntRange(1), metavar="N", help="Stop after N epochs without improvement.")
@tuning("--batch-size", type=click.IntRange(1), metavar="B", advanced=True, help="Samples per step.")
@tuning("--learning-rate", type=click.FloatRange(0, min_open=True), metavar="X", advanced=True,
        show_default="found in short trials", help="Length of a step.")  # fmt: skip
@tuning("--temperature", type=click.FloatRange(0), metavar="T", advanced=True,
        help="Softens the scores of classifiers before they are compared.")  # fmt: skip
@tuning("--match", type=click.FloatRange(0), metavar="W", advanced=True,
        help="Weight of the differences at the converted layers.")  # fmt: skip
@off_switch("--no-normalize", advanced=True, help="Train without batch normalization.")
@off_switch("--no-augment", advanced=True, help="Do not flip and shift images.")
@tuning("--samples", type=click.IntRange(1), metavar="N", help="How many samples to use.")
@tuning("--held-out", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="SHARE",
        help="Share of them to judge by.")  # fmt: skip
@option("--validation", multiple=True, metavar="[NAME=]PATH", help="Judge by these instead; none are held out.")
@option("--resume", is_flag=True, help="Go on from OUT.onnx.checkpoint, if it exists.")
@option("--report", type=FilePath(), metavar="FILE.json", help="Write a report.")
@option("--force", is_flag=True, help="Overwrite OUT.onnx.")
@tuning("--provider", type=click.Choice(TRAINING_PROVIDERS), help="Where to train.")
@tuning("--precision", type=click.Choice(PRECISIONS), advanced=True, help="Precision of forward passes.")
@tuning("--threads", type=click.IntRange(1, 256), metavar="N", advanced=True, help="Threads of PyTorch.")
@tuning("--seed", type=click.IntRange(0), metavar="S", advanced=True, help="Seed of all randomness.")
@show_options
def finetune(original: Path, converted: Path, output: Path, **options: Any) -> None:
    """Train CONVERTED to do what ORIGINAL does, without labels, and write it to OUT.

    Several processes or hosts: accelerate launch --num_processes N -m onnx_lowrank finetune ...
    """
    quiet, report = options.pop("quiet"), options.pop("report")
    resume, force = options.pop("resume"), options.pop("force")
    options.pop("debug")
    checkpoint = output.with_name(output.name + _CHECKPOINT)
    check_outputs(
        original,
        output,
        inputs=[
            converted,
            *data_files(options["data"], options["data_loader"]),
            *data_files(options["validation"], None),
        ],
        reports=[*([report] if report else []), checkpoint],
        # An existing output was written by the training that is resumed.
        force=force or (resume and checkpoint.is_file()),
    )
    if report and report.suffix.lower() != ".json":
        raise OutputError(f"--report {report}: .json is wanted: rename it")
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), original)
    validation = read_data(options.pop("validation"), None, original)
    part = torch_part()
    try:
        inputs = read_inputs(options)
        if inputs.pop("samples_axis"):
            raise click.UsageError("--samples-axis: fine-tuning takes samples on the first axis of all inputs only")
        settings = FinetuneSettings(**inputs, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with watching(quiet=quiet) as watch:
        result = part.finetune(
            original, converted, data, settings,
            validation=validation, preprocessing=preprocessing, checkpoint=checkpoint, resume=resume, progress=watch,
        )  # fmt: skip
    if result.process:
        return  # the first process writes
    with Publication() as publication:
        write_model(result.model, output, publication)
        if report:
            add_texts({report: json.dumps(result.to_dict(), indent=2)}, publication)
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
