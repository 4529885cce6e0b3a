"""Several targets from one calibration: what accuracy costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from threadpoolctl import threadpool_limits

from onnx_lowrank.calibrate import Preprocessing, preset
from onnx_lowrank.calibrate.calibration import Calibrated, Job, prepare_job
from onnx_lowrank.calibrate.split import MAX_CALIBRATION_SAMPLES, MAX_HELD_OUT_SAMPLES
from onnx_lowrank.errors import BudgetError, CalibrationError, LowRankError, VerificationError
from onnx_lowrank.graph import check_apart
from onnx_lowrank.pipeline import Solved, calibrate, checked, planned, solve
from onnx_lowrank.report import CurvePoint, CurveReport, curve_to_html, with_front
from onnx_lowrank.report.build import Outcome, account, figures
from onnx_lowrank.report.result import Result
from onnx_lowrank.runtime.latency import Latency, time_conversions, warn_if_slow
from onnx_lowrank.runtime.progress import Progress, Silent
from onnx_lowrank.runtime.stopwatch import peak_memory_bytes
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify import Comparison
from onnx_lowrank.verify.conversion import cached_original
from onnx_lowrank.version import __version__

log = logging.getLogger(__name__)

_PER_CALIBRATION_IMAGE = 2  # held-out samples: 100 tell agreements of 95 and of 97 % apart badly


@dataclass(frozen=True)
class SweepGoals:
    """What a sweep goes for.

    Attributes:
        speedups: each above 1.
        quick: solve on half of the images, where they are many: in less time, and little worse.
        keep: whether converted networks are handed back.
        places: by speedup, where the converted network is to be written.
    """

    speedups: Sequence[float]
    quick: bool
    keep: bool = False
    places: Mapping[float, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.speedups:
            raise BudgetError("speedups: none given, wanted some numbers above 1: try --speedups 2,3,4,5")


@dataclass(frozen=True, eq=False)
class Sweep:
    """A finished sweep.

    Attributes:
        report: its numbers, see `onnx_lowrank.report.CurveReport`.
        results: the conversions whose targets were met, in the order of the points, if models were asked for.
    """

    report: CurveReport
    results: tuple[Result, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as a dictionary."""
        return self.report.to_dict()

    def to_html(self) -> str:
        """The numbers as one HTML page with charts, which loads nothing; needs the extra ``report``.

        Raises:
            MissingDependencyError: Jinja2 or matplotlib is not installed.
        """
        return curve_to_html(self.report)


def sweep(  # noqa: PLR0913  (the options of the command, each with its default)
    model: str | Path | onnx.ModelProto,
    data: Any = None,
    speedups: Sequence[float] = (2, 3, 4, 5),
    settings: Settings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    models: bool = False,
    quick: bool | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Sweep:
    """Convert a network to several targets and say what each costs and loses.

    Data, responses, errors of truncation and latencies are read and measured once for all of them.

    Args:
        model: path of an ONNX file, or a model; not changed.
        data: sample inputs, as for `onnx_lowrank.convert`.
        speedups: the targets. One that cannot be met has an error in the place of numbers.
        settings: how to convert; ``speedup`` in it plays no part.
        preprocessing: of images; pixels / 255 if not given.
        models: hand the converted networks back.
        quick: solve on half of the images, where they are many, which takes less time: for networks that are looked
            at and thrown away. None for that unless ``models`` are asked for.
        progress: watches the stages.
        **changes: fields of `Settings` to change, as in ``sweep(model, data, labels=True)``.

    Returns:
        Its points, and the conversions if they were asked for.

    Raises:
        LowRankError: anything the user can fix; that of the smallest speedup where none can be met.
        TypeError, ValueError: wrong settings.
    """
    targets = SweepGoals(speedups, quick=not models if quick is None else quick, keep=models)
    chosen = replace(settings or Settings(), **changes)
    with sweeping(model, data, chosen, targets, preprocessing=preprocessing, progress=progress) as found:
        return found


@contextmanager
def sweeping(
    model: str | Path | onnx.ModelProto,
    data: Any,
    settings: Settings,
    targets: SweepGoals,
    *,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
) -> Iterator[Sweep]:
    """What `sweep` does; files get their names when the block ends well, and go away when it does not.

    Yields:
        What `sweep` returns, to be written beside.
    """
    if settings.plan is not None or settings.max_drop is not None:
        raise ValueError("a sweep chooses ranks for its speedups: leave plan and max_drop out")
    speedups = sorted(set(targets.speedups))
    for speedup in speedups:
        replace(settings, speedup=speedup)  # refuses what is none
    with threadpool_limits(settings.threads), ExitStack() as files:
        most = max(MAX_HELD_OUT_SAMPLES, _PER_CALIBRATION_IMAGE * (settings.samples or MAX_CALIBRATION_SAMPLES))
        job = prepare_job(model, data, settings, preprocessing or preset("zero-one"), progress or Silent(), most)
        for place in targets.places.values():
            check_apart(job.network.original, place)
        known = calibrate(job)
        found = list(_converted(known, speedups, targets, files))
        yield _swept(known, targets, _timed(job, found))


@dataclass(frozen=True, eq=False)
class _Target:
    """What came of one target: a network or an error."""

    speedup: float
    seconds: float
    solved: Solved | None = None
    outcome: Outcome = field(default_factory=Outcome)
    file: Path | None = None
    error: LowRankError | None = None


def _converted(
    known: Calibrated, speedups: Sequence[float], targets: SweepGoals, files: ExitStack
) -> Iterator[_Target]:
    """Every target, one by one; one that is out of reach does not stop the others, unless all are."""
    original, errors = cached_original(known.job), []
    for speedup in speedups:
        target = known.at(speedup)
        target = target.quick() if targets.quick else target
        log.info("target %gx", speedup)
        try:
            solved = solve(target, planned(target), target.targets.__getitem__)
            file, outcome = files.enter_context(checked(solved, targets.places.get(speedup), original))
        except (BudgetError, CalibrationError, VerificationError) as error:
            errors.append(error)
            log.warning("target %gx is left out: %s", speedup, error)
            yield _Target(speedup, target.job.watch.total, error=error)
        else:
            yield _Target(speedup, target.job.watch.total, solved, outcome, file)
    if len(errors) == len(speedups):
        raise errors[0]


def _timed(job: Job, found: Sequence[_Target]) -> list[_Target]:
    """The targets with their latencies, measured in turns, so that all stand against the same original."""
    met = [each for each in found if each.solved is not None]
    if not job.settings.bench or job.clock.foreign:
        return list(found)
    latencies = time_conversions(job, [job.network.as_run(each.solved.network) for each in met if each.solved])
    timed = {each.speedup: _with_latency(each, latency) for each, latency in zip(met, latencies, strict=True)}
    return [timed.get(each.speedup, each) for each in found]


def _with_latency(target: _Target, latency: Latency) -> _Target:
    if target.solved is not None:
        warn_if_slow(target.solved.job, target.solved.plan, latency)
    return replace(target, outcome=replace(target.outcome, latency=latency))


def _swept(known: Calibrated, targets: SweepGoals, found: Sequence[_Target]) -> Sweep:
    """The account of a sweep."""
    points, results = [], []
    for each in found:
        if each.solved is None:
            points.append(CurvePoint(each.speedup, each.seconds, error=str(each.error)))
            continue
        report = account(each.solved.job, each.solved.plan, each.outcome, targets.places.get(each.speedup))
        comparison = each.outcome.comparison
        points.append(CurvePoint.of_report(report, _accuracy(comparison, 1), each.seconds))
        if targets.keep:
            shown = figures(each.solved.job, known.losses, comparison, each.file)
            results.append(Result(each.solved.network, each.solved.plan, report, shown))
    return Sweep(_report(known, found, with_front(points, known.job.settings.cost)), tuple(results))


def _report(known: Calibrated, found: Sequence[_Target], points: tuple[CurvePoint, ...]) -> CurveReport:
    job = known.job
    solved, outcome = next((each.solved, each.outcome) for each in found if each.solved is not None)
    comparison, latency = outcome.comparison, outcome.latency
    before = account(job, solved.plan, Outcome())
    return CurveReport(
        version=__version__,
        seed=job.settings.seed,
        input=job.network.name,
        cost=job.settings.cost,
        calibration=before.calibration,
        refine=solved.job.settings.refine,
        solved_images=len(solved.job.split.calibration),
        held_out=comparison.images if comparison else 0,
        macs=before.macs[0],
        parameters=before.parameters[0],
        milliseconds=None if latency is None else latency.before.median_ms,
        accuracy=_accuracy(comparison, 0),
        latency=None if latency is None else {"batch": latency.batch, "threads": latency.threads or None},
        points=points,
        seconds=job.watch.total,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _accuracy(comparison: Comparison | None, model: int) -> dict[str, float] | None:
    """Of the original, 0, or of the converted network, 1."""
    if comparison is None or comparison.accuracy is None:
        return None
    return {name: pair[model] for name, pair in vars(comparison.accuracy).items()}
