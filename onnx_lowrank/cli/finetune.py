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
    checked_values,
    class_names_option,
    data_files,
    metric_files,
    metric_option,
    needed_data_options,
    read_data,
    read_inputs,
    read_metric,
    read_preprocessing,
    show_options,
)
from onnx_lowrank.cli.param_types import FilePath
from onnx_lowrank.cli.program import INTERRUPTED, Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.graph import Publication, add_texts, write_model
from onnx_lowrank.report.text import metric_text
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
@needed_data_options
@tuning("--learn", type=click.Choice(LEARN_CHOICES), metavar="FROM", help="Of original, labels or both.")
@class_names_option
@metric_option
@tuning("--epochs", type=click.IntRange(1), metavar="N", help="Passes over the samples at most.")
@tuning("--patience", type=click.IntRange(1), metavar="N", help="Epochs without gain to stop after.")
@tuning("--batch-size", type=click.IntRange(1), metavar="B", advanced=True, show_default="128",
        help="Samples per step; fewer if few.")  # fmt: skip
@tuning("--learning-rate", type=click.FloatRange(0, min_open=True), metavar="X", advanced=True,
        show_default="found in trials", help="Length of a step.")  # fmt: skip
@tuning("--temperature", type=click.FloatRange(0), metavar="T", advanced=True, help="Softening of compared scores.")
@tuning("--match", type=click.FloatRange(0), metavar="W", advanced=True, help="Weight of inner differences.")
@off_switch("--no-normalize", advanced=True, help="Train without batch normalization.")
@off_switch("--no-augment", advanced=True, help="Do not flip and shift images.")
@tuning("--samples", type=click.IntRange(1), metavar="N", show_default="all", help="Samples to use.")
@tuning("--held-out", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="SHARE",
        help="Share of samples to judge by.")  # fmt: skip
@option("--validation", multiple=True, metavar="PATH", values="PATH; or NAME=PATH for each of several inputs",
        help="Judge by these, hold out none.")  # fmt: skip
@option("--resume", is_flag=True, help="Go on from OUT.onnx.checkpoint.")
@option("--report", type=FilePath(), metavar="FILE", help="Write a .json report.")
@option("--force", is_flag=True, help="Overwrite OUT.onnx.")
@tuning("--provider", type=click.Choice(TRAINING_PROVIDERS), metavar="NAME", help="Train on cpu or cuda.")
@tuning("--precision", type=click.Choice(PRECISIONS), metavar="NAME", advanced=True,
        help="Forward passes in fp32 or bf16.")  # fmt: skip
@tuning("--threads", type=click.IntRange(1, 256), metavar="N", advanced=True, show_default="all",
        help="Threads of PyTorch.")  # fmt: skip
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
            *metric_files(options["metric"]),
        ],
        reports=[*([report] if report else []), checkpoint],
        # An existing output was written by the training that is resumed.
        force=force or (resume and checkpoint.is_file()),
    )
    if report and report.suffix.lower() != ".json":
        raise click.UsageError(f"--report {report}: .json is wanted: rename it")
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), original)
    validation = read_data(options.pop("validation"), None, original)
    part = torch_part()
    options["metric"] = read_metric(options["metric"])
    inputs = read_inputs(options)
    if inputs.pop("samples_axis"):
        raise click.UsageError("--samples-axis: fine-tuning takes samples on the first axis of all inputs only")
    with checked_values():
        settings = FinetuneSettings(**inputs, **options)
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
    if result.metric is not None:
        click.echo(f"metric      {metric_text(result.metric.to_dict())}")
    click.echo(f"written     {output}")
