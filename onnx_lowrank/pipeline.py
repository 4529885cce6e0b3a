"""The whole method: collect, choose ranks, then layer by layer propagate, solve, rewrite; verify, report.

`convert` is the place to start reading. Stages never call each other; they meet here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from threadpoolctl import threadpool_limits

from onnx_lowrank.calibrate import Preprocessing, Propagation, collect_targets, iterate_batches, preset
from onnx_lowrank.calibrate.calibration import Calibrated, Job, prepare_job
from onnx_lowrank.graph import check_apart, check_writable, read_model, replace_layer, set_metadata, staged
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.responses import LayerSamples, Patches, TargetResponses
from onnx_lowrank.ranks.choose import choose_ranks, measure_errors
from onnx_lowrank.ranks.search import Search, largest_speedup
from onnx_lowrank.report.build import Outcome, account, figures
from onnx_lowrank.report.result import Result
from onnx_lowrank.runtime.device import free_on_device
from onnx_lowrank.runtime.latency import Latency, time_conversion, warn_if_slow
from onnx_lowrank.runtime.memory import budget_bytes
from onnx_lowrank.runtime.progress import Progress, Silent
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve import solve_layer
from onnx_lowrank.solve.device import solver_device
from onnx_lowrank.verify import AccuracyLoss
from onnx_lowrank.verify.cached_session import Runnable
from onnx_lowrank.verify.conversion import cached_original, loss_on, verified_loss, verify_conversion, warn_if_few
from onnx_lowrank.version import __version__


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
        known = calibrate(job)
        found = None if settings.max_drop is None else _searched(known)
        plan = found.plan if found else planned(known)
        if dry_run:
            outcome = found.outcome if found else Outcome()
            yield Result(None, plan, account(job, plan, outcome), figures(job, known.losses))
            return
        solved = found or solve(known, plan, known.targets.pop)
        job = solved.job
        with checked(solved, output) as (file, outcome):
            with job.watch.measure("bench"):
                latency = _time(job, plan, file)
            report = account(job, plan, replace(outcome, latency=latency), output)
            yield Result(solved.network, plan, report, figures(job, known.losses, outcome.comparison, file))


def calibrate(job: Job) -> Calibrated:
    """What is measured once for all targets: responses of the original, and what pairs of ranks cost each layer."""
    with job.watch.measure("collect"):
        batches, network = job.batches(job.split.calibration, "collect"), job.network
        targets = collect_targets(network.model, job.layers, job.positions, batches, network.provider, job.probes)
    place = solver_device(job.network.provider)
    with job.watch.measure("ranks"):
        losses = measure_errors(job, targets, place)
    return Calibrated(job, {name: found.first() for name, found in targets.items()}, losses, place)


def planned(known: Calibrated) -> RankPlan:
    """Method and ranks of every layer, within the budget of the target."""
    with known.job.watch.measure("ranks"):
        return choose_ranks(known.job, known.losses)


@dataclass(frozen=True, eq=False)
class Solved:
    """A network with its layers solved as planned, not yet written.

    Attributes:
        job: the conversion.
        plan: its ranks.
        network: in the original's types.
        outcome: errors of the layers, passes that took, the search for the target if there was one.
    """

    job: Job
    plan: RankPlan
    network: onnx.ModelProto
    outcome: Outcome


def solve(known: Calibrated, plan: RankPlan, take: Callable[[str], TargetResponses]) -> Solved:
    """Solve the layers as planned and put their factors in their places.

    Args:
        known: the conversion.
        plan: its ranks.
        take: the targets of a layer by its name; that of a conversion with one target gives them up, to free memory.
    """
    job = known.job
    held = sum(targets.nbytes for targets in known.targets.values())
    solved, passes = _solve_layers(known, plan, take, budget_bytes(job.settings.memory, held))
    converted = _rewritten(job, solved)
    _sign(converted, job, plan)
    return Solved(job, plan, converted, Outcome({layer.name: factors.errors for layer, factors in solved}, passes))


def _searched(known: Calibrated) -> Solved:
    """The network of the largest speedup whose loss on samples set aside for that stays within what is allowed."""
    job, original = known.job, cached_original(known.job)
    warn_if_few(job)

    def attempt(speedup: float, *, quick: bool) -> tuple[Solved, AccuracyLoss]:
        target = known.at(speedup).quick() if quick else known.at(speedup)
        solved = solve(target, planned(target), target.targets.__getitem__)
        return solved, loss_on(job, job.split.search, solved.network, original)

    with job.watch.measure("search"):
        search = largest_speedup(attempt, job.settings.max_drop or 0.0)
    found = search.made
    outcome = replace(found.outcome, search=Search(search.speedup, None, search.drop, search.tried))
    return replace(found, job=replace(found.job, watch=job.watch), outcome=outcome)


def _solve_layers(
    known: Calibrated, plan: RankPlan, take: Callable[[str], TargetResponses], most_bytes: int
) -> tuple[list[tuple[Layer, FactorChain]], float]:
    """The layer loop: what reaches a layer, its factors, its place in the graph; and passes of the whole network."""
    job, converted = known.job, onnx.ModelProto()
    converted.CopyFrom(job.network.model)
    batches = iterate_batches(job.samples, job.split.calibration, job.split.batch_size)
    most = most_bytes, free_on_device(job.network.provider) // 2
    prefix = converted if job.settings.asymmetric else job.network.model
    todo = [(layer, entry) for layer, entry in zip(job.layers, plan, strict=True) if entry.method != "kept"]
    later = [layer for layer, _ in todo]
    solved = []
    with closing(Propagation(batches, job.positions, job.network.provider, *most)) as propagation:
        for layer, entry in job.progress.track(todo, "solve", len(todo)):
            later = later[1:]
            with job.watch.measure("propagate"):
                patches = propagation.advance(prefix, layer, later)
            with job.watch.measure("solve"):
                factors = known.place.run(partial(_factors, job, layer, entry, patches), take(layer.name))
                replace_layer(converted, layer, factors)
                solved.append((layer, factors))
                del patches  # or they would lie beside those of the next layer
    passes = propagation.node_runs / (len(converted.graph.node) * len(job.split.calibration))
    return solved, passes


def _factors(job: Job, layer: Layer, entry: LayerPlan, patches: Patches, targets: TargetResponses) -> FactorChain:
    """One layer, solved as planned and asked for."""
    return solve_layer(layer, LayerSamples(targets, patches), entry, job.settings.solver, job.settings.refine)


def _rewritten(job: Job, solved: Sequence[tuple[Layer, FactorChain]]) -> onnx.ModelProto:
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
    if settings.max_drop is not None:
        target = f"max-drop {settings.max_drop:g}, {target}"
    entries = {"version": __version__, "target": target, "seed": str(settings.seed), "plan": plan.to_json()}
    set_metadata(converted, {f"onnx_lowrank.{key}": value for key, value in entries.items()})


@contextmanager
def checked(
    solved: Solved, output: str | Path | None, original: Runnable | None = None
) -> Iterator[tuple[Path, Outcome]]:
    """The network as a file that has been verified; it gets its name when the block ends well.

    Args:
        solved: the network.
        output: its final place; None for one that goes away.
        original: what to compare it with, see `onnx_lowrank.verify.conversion.cached_original`.

    Yields:
        The file, and how it compares with the original.
    """
    job = solved.job
    with _written(solved.network, output) as file:
        with job.watch.measure("verify"):
            original = original or cached_original(job)
            outcome = replace(solved.outcome, comparison=verify_conversion(job, solved.plan, file, original))
            if outcome.search is not None:
                outcome = replace(outcome, drop=verified_loss(job, file, original))
        yield file, outcome


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
