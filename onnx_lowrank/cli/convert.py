"""``onnx-lowrank IN.onnx OUT.onnx``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_lowrank import pipeline
from onnx_lowrank.cli.files import check_outputs, check_report_ending, read_plan
from onnx_lowrank.cli.help import off_switch, option, setting
from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.cli.options import (
    bound_options,
    check_class_names,
    check_cost,
    check_target,
    checked_values,
    data_files,
    data_options,
    drop_type_option,
    label_options,
    layer_options,
    method_options,
    metric_files,
    metric_option,
    read_bounds,
    read_data,
    read_inputs,
    read_metric,
    read_preprocessing,
    read_share,
    read_speedup,
    run_options,
)
from onnx_lowrank.cli.param_types import FilePath
from onnx_lowrank.cli.program import MainCommand
from onnx_lowrank.cli.tables import table_console
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.ranks.estimate import SMALL_ERROR
from onnx_lowrank.report import estimate_lines, headline, labelled, layer_table
from onnx_lowrank.report.files import OutputFiles
from onnx_lowrank.report.result import Result
from onnx_lowrank.settings import REFINEMENTS, Settings
from onnx_lowrank.version import __version__


@click.command(
    "convert", cls=MainCommand, epilog="Example: onnx-lowrank model.onnx fast.onnx --speedup 4 --data images/"
)
@click.argument("model", type=FilePath(), metavar="IN.onnx")
@click.argument("output", type=FilePath(), metavar="OUT.onnx", required=False)
@option("--speedup", metavar="[X]", bare=f"{Settings.speedup:g}", show_default=f"up to {Settings.speedup:g}",
        help="Original cost / converted cost.")  # fmt: skip
@option("--max-drop", metavar="D", help="Instead, the largest loss, like 1%.")
@drop_type_option
@metric_option
@label_options("Count top-1 by class folders.")
@bound_options
@method_options
@setting("--refine", type=click.Choice(REFINEMENTS), metavar="LEVEL", advanced=True,
         values="none; fast: layer by layer; full: longer and, with PyTorch, blocks of layers together",
         help="Refine factors: none, fast or full.")  # fmt: skip
@data_options
@layer_options
@option("--plan", type=FilePath(), metavar="FILE", advanced=True, help="Use the ranks of a rank plan (JSON).")
@option("--save-plan", type=FilePath(), metavar="FILE", advanced=True, help="Write the rank plan (JSON).")
@option("--report", "reports", type=FilePath(), multiple=True, metavar="FILE",
        help="Write a .json, .md or .html report.")  # fmt: skip
@off_switch("--no-bench", advanced=True, help="Do not measure latency.")
@option("--dry-run", is_flag=True, help="Choose ranks, show them and stop.")
@option("--preview", is_flag=True, help="Take a first look, with few samples.")
@option("--force", is_flag=True, help="Overwrite OUT.onnx.")
@run_options("up to 256")
@click.version_option(__version__, prog_name="onnx-lowrank", help="Show the version and exit.")
def convert(model: Path, output: Path | None, **options: Any) -> None:
    """Make a CNN in ONNX faster by low-rank factorization, without training."""
    dry_run, quiet = options.pop("dry_run"), options.pop("quiet")
    reports, save_plan, plan_file = options.pop("reports"), options.pop("save_plan"), options.pop("plan")
    force = options.pop("force")
    options.pop("debug")
    if output is None and not dry_run:
        raise click.UsageError("Missing argument 'OUT.onnx'.")
    output = None if dry_run else output
    check_target(options, plan_file)
    check_class_names(options)
    for report in reports:
        check_report_ending(report)
    check_cost(options)
    if model.is_file():  # a missing one has a message of its own
        check_outputs(
            model,
            output,
            inputs=[
                *data_files(options["data"], options["data_loader"]),
                *metric_files(options["metric"]),
                *([plan_file] if plan_file else []),
            ],
            reports=[*reports, *([save_plan] if save_plan else [])],
            force=force,
            latency_table=options["latency_table"],
        )
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), model)
    plan = read_plan(plan_file) if plan_file else None
    options["metric"] = read_metric(options["metric"])
    with checked_values():
        if (speedup := options.pop("speedup")) is not None:
            options["speedup"] = read_speedup(speedup)
        elif options["max_drop"] is None and plan is None:
            options["predicted_error"] = SMALL_ERROR
        options["max_drop"] = read_share(options["max_drop"], "--max-drop")
        settings = Settings(plan=plan, **read_inputs(options), **read_bounds(options), **options)
    files = OutputFiles(output, reports, save_plan)
    with watching(quiet=quiet) as watch:
        result = pipeline.convert(
            model,
            data,
            settings,
            preprocessing=preprocessing,
            output=files,
            force=force,
            dry_run=dry_run,
            progress=watch,
        )
    if not quiet:
        _show(result)
    elif dry_run:  # which would be for nothing otherwise
        click.echo(result.plan.to_json(), nl=False)


def _show(result: Result) -> None:
    console, columns = table_console()
    console.print(layer_table(result.report, columns))
    console.print()
    for line in headline(result.report):
        console.print(line, markup=False, soft_wrap=True)
    for line in estimate_lines(result.report.estimates):
        console.print(line, markup=False, soft_wrap=True)
    if result.report.output:
        console.print(f"written     {result.report.output}", markup=False, soft_wrap=True)
    words = flags(click.get_current_context())
    for warning in result.report.warnings:
        console.print(labelled("warning", with_flags(warning.text, words)), markup=False, soft_wrap=True)
