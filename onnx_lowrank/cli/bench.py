"""``onnx-lowrank bench``: measure the latency of models in turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.cli.help import option, setting
from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.cli.options import (
    debug_option,
    provider_options,
    read_inputs,
    shape_options,
)
from onnx_lowrank.cli.param_types import FilePath, Names
from onnx_lowrank.cli.program import Command
from onnx_lowrank.commands.bench import bench
from onnx_lowrank.commands.benchmark import Benchmark, ModelTiming, RuntimeTimings
from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.report.text import unsteady_text
from onnx_lowrank.runtime.timing import Pace
from onnx_lowrank.settings import RUNTIMES, Settings

_HEADING = "median ms   p10 ms   p90 ms   ratio       interval"


@click.command("bench", cls=Command, epilog="Example: onnx-lowrank bench model.onnx fast.onnx --threads 1")
@click.argument("models", type=FilePath(), metavar="A.onnx [B.onnx ...]", nargs=-1, required=True)
@option(
    "--batch-size",
    type=click.IntRange(1),
    metavar="B",
    show_default="1",
    help="Samples per run.",
)
@shape_options
@setting("--rounds", Pace, type=click.IntRange(1), metavar="N", help="Turns of each model.")
@setting("--repeats", Pace, type=click.IntRange(1), metavar="N", help="Runs per round at least.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting("--runtime", type=Names("runtime", RUNTIMES), metavar="NAME,...", values=f"with commas: {', '.join(RUNTIMES)}",
         help="Run in these.")  # fmt: skip
@provider_options
@debug_option
def bench_command(models: tuple[Path, ...], **options: Any) -> None:
    """Measure latency: models in turns, one loaded at a time.

    Ratios are to the first model: 2 means twice as fast. The interval is wide
    where other work on the machine spoils the timing. Outputs of other runtimes
    are compared with onnxruntime's.
    """
    pace = Pace(options["rounds"], options["repeats"])
    benchmark = bench(
        models,
        provider=options["provider"],
        ep_library=options["ep_library"],
        threads=options["threads"],
        batch_size=options["batch_size"],
        pace=pace,
        runtime=options["runtime"],
        **read_inputs(options),
    )
    click.echo(json.dumps(benchmark.to_dict(), indent=2) if options["as_json"] else "\n".join(_lines(benchmark)))


def _lines(benchmark: Benchmark) -> list[str]:
    facts = benchmark.to_dict()
    lines: list[str] = []
    for timings in benchmark.runtimes:
        lines += [""] if lines else []
        threads = threads_text(timings.runtime.threads)
        if timings.runtime.name == Settings.runtime:
            where = f"provider {facts['provider']}, {threads}, onnxruntime {facts['onnxruntime']}"
            lines += [f"{benchmark.device}, {where}", *_table(benchmark.models)]
        else:
            where = f"{threads}, {timings.runtime.name} {timings.runtime.version} in {timings.runtime.precision}"
            lines += [f"{benchmark.device}, {where}", *_compared_table(timings)]
    return lines


def _table(models: Sequence[ModelTiming]) -> list[str]:
    """Return the rows of models in onnxruntime, and what makes their times doubtful."""
    lines = [f"{_HEADING}   model"]
    for model in models:
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in model.inputs.items())
        lines.append(f"{_cells(model)}   {model.path} ({shapes}, {model.timing.runs} runs)")
    return [*lines, *_doubts(models)]


def _compared_table(timings: RuntimeTimings) -> list[str]:
    """Return the rows of models in another runtime, with how far their outputs are from onnxruntime's."""
    lines = [f"{_HEADING}   differs   model"]
    for model in timings.models:
        if model.timed is not None:
            far = max(model.differences.values(), default=0.0)
            lines.append(f"{_cells(model.timed)}   {far:>7.1e}   {model.path}")
    lines += [f"does not run: {model.error}" for model in timings.models if model.error is not None]
    timed = [model.timed for model in timings.models if model.timed is not None]
    words = flags(click.get_current_context())
    return [*lines, *_doubts(timed), *(f"warning: {with_flags(warning, words)}" for warning in timings.warnings)]


def _cells(model: ModelTiming) -> str:
    """Return the columns of milliseconds and of the ratio."""
    row = model.to_dict()
    ratio = "" if model.ratio_to_first is None else f"{model.ratio_to_first:.2f}x"
    times = f"{row['median_ms']:>9.3f} {row['p10_ms']:>8.3f} {row['p90_ms']:>8.3f}"
    return f"{times} {ratio:>7} {_interval(model):>14}"


def _doubts(models: Sequence[ModelTiming]) -> list[str]:
    return [f"{model.path}: {unsteady_text(model.interval)}" for model in models if model.interval and not model.steady]


def _interval(model: ModelTiming) -> str:
    """Return the bounds of a ratio; nothing where it is 1 by definition, or after a single round."""
    if model.interval is None or model.interval == (1, 1):
        return ""
    return "{:.2f} .. {:.2f}".format(*model.interval)
