"""``onnx-lowrank bench``: measure the latency of models in turns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.cli.help import option, setting
from onnx_lowrank.cli.options import FilePath, debug_option, provider_options, read_inputs, shape_options
from onnx_lowrank.cli.program import Command
from onnx_lowrank.commands.bench import Benchmark, ModelTiming, bench
from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.report.text import unsteady_text
from onnx_lowrank.runtime.timing import Pace


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
@provider_options
@debug_option
def bench_command(models: tuple[Path, ...], **options: Any) -> None:
    """Measure latency: models in turns, one session alive at a time.

    Ratios are to the first model: 2 means twice as fast. The interval is wide
    where other work on the machine spoils the timing.
    """
    pace = Pace(options["rounds"], options["repeats"])
    benchmark = bench(
        models,
        provider=options["provider"],
        ep_library=options["ep_library"],
        threads=options["threads"],
        batch_size=options["batch_size"],
        pace=pace,
        **read_inputs(options),
    )
    click.echo(json.dumps(benchmark.to_dict(), indent=2) if options["as_json"] else "\n".join(_lines(benchmark)))


def _lines(benchmark: Benchmark) -> list[str]:
    facts = benchmark.to_dict()
    threads = threads_text(facts["threads"])
    lines = [f"{benchmark.device}, provider {facts['provider']}, {threads}, onnxruntime {facts['onnxruntime']}"]
    lines.append("median ms   p10 ms   p90 ms   ratio       interval   model")
    for model in benchmark.models:
        row = model.to_dict()
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in row["inputs"].items())
        lines.append(
            f"{row['median_ms']:>9.3f} {row['p10_ms']:>8.3f} {row['p90_ms']:>8.3f} {row['ratio_to_first']:>6.2f}x "
            f"{_interval(model):>14}   "
            f"{row['path']} ({shapes}, {row['runs']} runs)"
        )
    return [*lines, *(f"{row['path']}: {unsteady_text(row['interval'])}" for row in facts["models"] if _unsteady(row))]


def _interval(model: ModelTiming) -> str:
    """Return the bounds of a ratio; nothing where it is 1 by definition, or after a single round."""
    if model.interval is None or model.interval == (1, 1):
        return ""
    return "{:.2f} .. {:.2f}".format(*model.interval)


def _unsteady(row: Mapping[str, Any]) -> bool:
    return row["interval"] is not None and not row["steady"]
