"""The whole method: collect, choose ranks, then layer by layer propagate, solve, rewrite; verify, report.

`convert` is the place to start reading. Stages never call each other; they meet here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from threadpoolctl import threadpool_limits

from onnx_lowrank.account import Outcome, account, evidence
from onnx_lowrank.calibrate import Preprocessing, Propagation, collect_targets, iterate_batches, preset
from onnx_lowrank.choose import choose_ranks, measure_errors
from onnx_lowrank.factors import Factors
from onnx_lowrank.job import Job, prepare_job
from onnx_lowrank.layer import Layer
from onnx_lowrank.load import read_model
from onnx_lowrank.measured import Latency, time_conversion, warn_if_slow
from onnx_lowrank.memory import within
from onnx_lowrank.plan import RankPlan
from onnx_lowrank.progress import Progress, Silent
from onnx_lowrank.report import Evidence, Report, to_html
from onnx_lowrank.responses import Responses, Targets
from onnx_lowrank.rewrite import check_apart, check_writable, replace_layer, set_metadata, staged
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve import solve_layer
from onnx_lowrank.verified import verify_conversion
from onnx_lowrank.version import __version__


@dataclass(frozen=True, eq=False)
class Result:
    """A finished conversion.

    Attributes:
        model: the converted model; None for a dry run.
        plan: the ranks it was converted with.
        report: what was done, in numbers.
        evidence: the curves and pictures that `to_html` shows with them.
    """

    model: onnx.ModelProto | None
    plan: RankPlan
    report: Report
    evidence: Evidence

    def save(self, path: str | Path) -> None:
        """Write the converted model; the file is there whole or not at all.

        Raises:
            OutputError: it cannot be written.
            ValueError: a dry run has no model.
        """
        if self.model is None:
            raise ValueError("a dry run has no model to save")
        with staged(self.model, Path(path)):
            pass

    def to_dict(self) -> dict[str, Any]:
        """The JSON report as a dictionary."""
        return self.report.to_dict()

    def to_html(self) -> str:
        """The report as one HTML page with charts, which loads nothing; needs the extra ``report``.

        Raises:
            MissingDependencyError: Jinja2 or matplotlib is not installed.
        """
        return to_html(self.report, self.evidence)


def convert(
    model: str | Path | onnx.ModelProto,
    data: Any = None,
    settings: Settings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    output: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Result:
    """Convert a network into one that does the same with a fraction of the multiply-adds.

    Args:
        model: path of an ONNX file, or a model; not changed.
        data: sample inputs: path of an image folder, archive, ``.npy`` or ``.npz``; ``{input name: path}``; or an
            iterable of batches ``{input name: array}``, first axis = samples. None: made-up images.
        settings: how to convert.
        preprocessing: of images; pixels / 255 if not given.
        output: where to write the result, once it is verified; an existing file is replaced. None writes nothing.
        dry_run: stop after choosing ranks.
        progress: watches the stages.
        **changes: fields of `Settings` to change, as in ``convert(model, data, speedup=4)``.

    Returns:
        The converted model, its rank plan and a report.

    Raises:
        LowRankError: anything the user can fix; see `onnx_lowrank.errors`.
        TypeError, ValueError: wrong settings.

    References:
        Zhang, Zou, He, Sun 2015, arXiv:1505.06798.
    """
    with conversion(
        model,
        data,
        replace(settings or Settings(), **changes),
        preprocessing=preprocessing,
        output=output,
        dry_run=dry_run,
        progress=progress,
    ) as result:
        return result


@contextmanager
def conversion(
    model: str | Path | onnx.ModelProto,
    data: Any,
    settings: Settings,
    *,
    preprocessing: Preprocessing | None = None,
    output: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """What `convert` does; the written file gets its name when the block ends well, and goes away when it does not.

    Yields:
        What `convert` returns, to be written beside.
    """
    if output is not None and not dry_run:
        check_writable(Path(output), force=True)
    with threadpool_limits(settings.threads):
        job = prepare_job(model, data, settings, preprocessing or preset("zero-one"), progress or Silent())
        if output is not None:
            check_apart(job.network.original, Path(output))
        with job.watch.measure("collect"):
            batches = job.batches(job.split.calibration, "collect")
            network = job.network
            targets = collect_targets(network.model, job.layers, job.positions, batches, network.provider, job.probes)
        with job.watch.measure("ranks"):
            truncations = measure_errors(job, targets)
            plan = choose_ranks(job, truncations)
        if dry_run:
            yield Result(None, plan, account(job, plan, Outcome()), evidence(job, truncations))
            return
        solved, passes = _solve_layers(job, plan, targets)
        converted = _rewritten(job, solved)
        _sign(converted, job, plan)
        with _written(converted, output) as file:
            with job.watch.measure("verify"):
                comparison = verify_conversion(job, plan, file)
            with job.watch.measure("bench"):
                latency = _time(job, plan, file)
            errors = {layer.name: factors.errors for layer, factors in solved}
            report = account(job, plan, Outcome(errors, passes, comparison, latency), output)
            yield Result(converted, plan, report, evidence(job, truncations, comparison, file))


def _solve_layers(job: Job, plan: RankPlan, targets: dict[str, Targets]) -> tuple[list[tuple[Layer, Factors]], float]:
    """The layer loop: what reaches a layer, its factors, its place in the graph; and passes of the whole network."""
    converted = onnx.ModelProto()
    converted.CopyFrom(job.network.model)
    batches = iterate_batches(job.samples, job.split.calibration, job.split.batch_size)
    most_bytes = within(job.settings.memory)
    prefix = converted if job.settings.asymmetric else job.network.model
    todo = [(layer, entry) for layer, entry in zip(job.layers, plan, strict=True) if entry.method != "kept"]
    later = [layer for layer, _ in todo]
    solved = []
    with closing(Propagation(batches, job.positions, job.network.provider, most_bytes)) as propagation:
        for layer, entry in job.progress.track(todo, "solve", len(todo)):
            later = later[1:]
            with job.watch.measure("propagate"):
                patches = propagation.advance(prefix, layer, later)
            with job.watch.measure("solve"):
                responses = Responses(targets.pop(layer.name), patches)
                factors = solve_layer(layer, responses, entry, job.settings.solver, job.settings.refine)
                replace_layer(converted, layer, factors)
                solved.append((layer, factors))
    passes = propagation.node_runs / (len(converted.graph.node) * len(job.split.calibration))
    return solved, passes


def _rewritten(job: Job, solved: Sequence[tuple[Layer, Factors]]) -> onnx.ModelProto:
    """The original with all factors in their places, in its own types."""
    network = onnx.ModelProto()
    network.CopyFrom(job.network.original)
    layers = job.network.in_own_types([layer for layer, _ in solved], job.one_batch)
    for layer, (_, factors) in zip(layers, solved, strict=True):
        replace_layer(network, layer, factors)
    return network


def _sign(converted: onnx.ModelProto, job: Job, plan: RankPlan) -> None:
    """Say in the model's metadata how it was made."""
    settings = job.settings
    target = "plan" if settings.plan else f"speedup {settings.speedup:g} ({settings.cost})"
    entries = {"version": __version__, "target": target, "seed": str(settings.seed), "plan": plan.to_json()}
    set_metadata(converted, {f"onnx_lowrank.{key}": value for key, value in entries.items()})


@contextmanager
def _written(model: onnx.ModelProto, output: str | Path | None) -> Iterator[Path]:
    """The model as a file to verify: beside its final place, or in a folder that goes away."""
    with (
        tempfile.TemporaryDirectory() as folder,
        staged(model, Path(output or Path(folder) / "model.onnx")) as file,
    ):
        yield file


def _time(job: Job, plan: RankPlan, file: Path) -> Latency | None:
    """Time the written file against the original, where that is wanted and this is the machine it was made for."""
    if not job.settings.bench or job.clock.foreign:
        return None
    latency = time_conversion(job, job.network.as_run(read_model(file)))
    warn_if_slow(job, plan, latency)
    return latency
