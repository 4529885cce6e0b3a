"""``onnx-lowrank sweep``: several targets from one calibration."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from onnx_lowrank.cli.files import check_outputs
from onnx_lowrank.cli.help import off_switch, option
from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.cli.options import (
    bound_options,
    check_class_names,
    check_cost,
    checked_values,
    data_files,
    data_options,
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
    run_options,
)
from onnx_lowrank.cli.param_types import FilePath
from onnx_lowrank.cli.program import Command
from onnx_lowrank.cli.watch import watching
from onnx_lowrank.commands import sweep as sweeps
from onnx_lowrank.commands.sweep_points import SweepFiles
from onnx_lowrank.report import CurveReport, curve_notes, curve_table, quick_text
from onnx_lowrank.settings import REFINEMENTS, Settings

_SPEEDUPS = ",".join(f"{target:g}" for target in signature(sweeps.sweep).parameters["speedups"].default)


class Speedups(click.ParamType):
    """Different numbers with commas between them; `Settings` checks that they are above 1."""

    name = "speedups"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Convert text to numbers."""
        try:  # rounded as in file names, which must differ
            return tuple(sorted({float(f"{float(part):g}") for part in value.split(",")}))
        except ValueError:
            self.fail(f"'{value}' is not a list of numbers like 2,3,4,5", param, ctx)


@click.command(
    "sweep",
    cls=Command,
    short_help="Convert to several targets from one calibration.",
    epilog="Example: onnx-lowrank sweep model.onnx out/ --speedups 2,3 --data images/",
)
@click.argument("model", type=FilePath(), metavar="IN.onnx")
@click.argument("folder", type=FilePath(), metavar="OUT_DIR")
@option("--speedups", type=Speedups(), default=_SPEEDUPS, metavar="X,X,...", help="Targets.")
@option("--models", is_flag=True, help="Write the converted models too.")
@metric_option
@label_options("Measure accuracy by class folders.")
@bound_options
@method_options
@option("--refine", type=click.Choice(REFINEMENTS), metavar="LEVEL", advanced=True, show_default=Settings.refine,
        values="none, fast or full; without it and without --models, fast on half of the samples",
        help="How long factors are refined.")  # fmt: skip
@data_options
@layer_options
@off_switch("--no-bench", advanced=True, help="Do not measure latency.")
@option("--force", is_flag=True, help="Overwrite files.")
@run_options("up to 256")
def sweep(model: Path, folder: Path, **options: Any) -> None:
    """Convert to several targets from one calibration and show what each costs.

    Writes OUT_DIR/sweep.json and sweep.html; models only if asked for.
    """
    speedups, models, quiet = options.pop("speedups"), options.pop("models"), options.pop("quiet")
    force = options.pop("force")
    options.pop("debug")
    check_cost(options)
    check_class_names(options)
    files = SweepFiles.of(folder, model, speedups if models else ())
    files.check(force=force)
    if model.is_file() and folder.is_dir():
        check_outputs(
            model,
            None,
            inputs=[*data_files(options["data"], options["data_loader"]), *metric_files(options["metric"])],
            reports=[folder / name for name in files.names],
            force=force,
            latency_table=options["latency_table"],
        )
    preprocessing = read_preprocessing(options)
    data = read_data(options.pop("data"), options.pop("data_loader"), model)
    options["metric"] = read_metric(options["metric"])
    quick = not models and options["refine"] is None
    if options["refine"] is None:
        del options["refine"]
    with checked_values():
        settings = Settings(**read_inputs(options), **read_bounds(options), **options)
        for speedup in speedups:
            replace(settings, speedup=speedup)  # raises for one that is none
    with watching(quiet=quiet) as watch:
        found = sweeps.sweep(
            model, data, speedups, settings, preprocessing=preprocessing, models=models, quick=quick, output=folder,
            force=force, progress=watch,
        )  # fmt: skip
    if not quiet:
        _show(_in_flags(found.report), folder)


def _in_flags(report: CurveReport) -> CurveReport:
    """Return a report that says with flags why a target was not met, and what to do about warnings."""
    words = flags(click.get_current_context())
    return replace(
        report,
        points=tuple(
            replace(
                point,
                error=point.error and with_flags(point.error, words),
                warnings=tuple(replace(each, text=with_flags(each.text, words)) for each in point.warnings),
            )
            for point in report.points
        ),
    )


def _show(report: CurveReport, folder: Path) -> None:
    console = Console(highlight=False)
    console.print(curve_table(report))
    console.print()
    if report.quick:
        console.print(f"quick       {quick_text(report)}", markup=False, soft_wrap=True)
    for line in (
        f"compared    on {report.held_out} held-out samples; * on the front: no other target beats it in both"
        + ("; ! not close" if any(point.not_close for point in report.points) else ""),
        f"seconds     {report.seconds:.1f} for {len(report.points)} targets",
        f"written     {folder}",
        *curve_notes(report),
    ):
        console.print(line, markup=False, soft_wrap=True)
