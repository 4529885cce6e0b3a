"""Several speedups from one calibration: what accuracy costs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from onnx_lowrank.calibrate import Preprocessing
from onnx_lowrank.calibrate.split import MAX_CALIBRATION_SAMPLES, MAX_HELD_OUT_SAMPLES
from onnx_lowrank.errors import (
    BudgetError,
    CalibrationError,
    LowRankError,
    MissingDependencyError,
    VerificationError,
)
from onnx_lowrank.graph import Publication, add_texts, check_apart, new_folder
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.pipeline import (
    ConvertedNetwork,
    collect,
    conversion_timer,
    open_conversion,
    rank_losses,
    report_on,
    solve_network,
    written_and_verified,
)
from onnx_lowrank.ranks.choose import check_reachable, choose_ranks
from onnx_lowrank.report import Calibration, CurvePoint, CurveReport, check_page_packages, curve_to_html, with_front
from onnx_lowrank.report.build import calibration_report
from onnx_lowrank.report.result import Result
from onnx_lowrank.runtime.device import rank_block
from onnx_lowrank.runtime.latency import ConversionTimer, slow_warnings
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.processors import linear_algebra_threads
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.stopwatch import peak_memory_bytes
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve.device import solver_device
from onnx_lowrank.verify import CachedSession, Comparison
from onnx_lowrank.verify.conversion import open_for_comparison
from onnx_lowrank.version import __version__

log = logging.getLogger(__name__)

_LEFT_OUT = "target %gx is left out: %s"
_HELD_OUT_PER_CALIBRATION_IMAGE = 2  # 100 held-out samples tell agreements of 95 and of 97 % apart badly


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


@dataclass(frozen=True)
class SweepFiles:
    """The files of a sweep, in one folder.

    Attributes:
        folder: where they go.
        models: converted models by speedup; none where they are not asked for.
        page: whether pages can be made here.
    """

    folder: Path
    models: Mapping[float, Path] = field(default_factory=dict)
    page: bool = True

    @staticmethod
    def of(folder: Path, model: str | Path | onnx.ModelProto, speedups: Sequence[float]) -> SweepFiles:
        """Name the files of a sweep.

        Args:
            folder: where they go.
            model: the original; converted models are named after its file.
            speedups: of the models that are to be written.
        """
        stem = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
        return SweepFiles(folder, {each: folder / f"{stem}-{each:g}x.onnx" for each in speedups})

    @property
    def json(self) -> Path:
        """The numbers."""
        return self.folder / "sweep.json"

    @property
    def html(self) -> Path:
        """The page."""
        return self.folder / "sweep.html"

    @property
    def names(self) -> list[str]:
        """Names of all files that may be written."""
        reports = [path.with_suffix(".json") for path in self.models.values()]
        return [path.name for path in (self.json, self.html, *self.models.values(), *reports)]

    def checked(self) -> SweepFiles:
        """Return the same without a page where none can be made here, with a warning."""
        try:
            check_page_packages(self.html.name)
        except MissingDependencyError as error:
            log.warning("%s is written alone: %s", self.json.name, error)
            return replace(self, page=False)
        return self

    def texts(self, sweep: Sweep) -> dict[Path, str]:
        """Return the contents of all files but the models."""
        texts = {self.json: sweep.report.to_json()}
        if self.page:
            texts[self.html] = sweep.to_html()
        for result in sweep.results:
            if result.report.output is not None:
                texts[Path(result.report.output).with_suffix(".json")] = result.report.to_json()
        return texts


def sweep(  # noqa: PLR0913  (the options of the command, each with its default)
    model: str | Path | onnx.ModelProto,
    data: Any = None,
    speedups: Sequence[float] = (2, 3, 4, 5),
    settings: Settings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    models: bool = False,
    quick: bool | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Sweep:
    """Convert a network to several speedups and say what each costs and loses.

    Data, responses, losses of ranks and latencies are read and measured once for all of them.

    Args:
        model: path of an ONNX file, or a model; not changed.
        data: sample inputs, as for `onnx_lowrank.convert`.
        speedups: the targets, each above 1. One that cannot be met has an error in the place of numbers.
        settings: how to convert; ``speedup`` in it plays no part.
        preprocessing: of images; pixels / 255 if not given.
        models: keep the converted networks.
        quick: solve on half of the images, where they are many, which takes less time and is little worse: for
            networks that are looked at and thrown away. None for that unless ``models`` are asked for.
        output: folder to write ``sweep.json`` and ``sweep.html`` into, made if need be, and the converted networks with
            a report each where ``models`` are asked for. None writes nothing.
        progress: watches the stages.
        **changes: fields of `Settings` to change, as in ``sweep(model, data, labels=True)``.

    Returns:
        Its points, and the conversions if they were asked for.

    Raises:
        LowRankError: anything the user can fix; that of the smallest speedup where none can be met.
        TypeError, ValueError: wrong settings.
    """
    settings, monitor = replace(settings or Settings(), **changes), Monitor(progress)
    _check(speedups, settings)
    speedups = sorted(set(speedups))
    with linear_algebra_threads(settings.threads), contextlib.ExitStack() as stack:
        files = None if output is None else SweepFiles.of(Path(output), model, speedups if models else ()).checked()
        if files is not None:
            stack.enter_context(new_folder(files.folder, files.names))
        publication = stack.enter_context(Publication())
        held_out = max(
            MAX_HELD_OUT_SAMPLES, _HELD_OUT_PER_CALIBRATION_IMAGE * (settings.samples or MAX_CALIBRATION_SAMPLES)
        )
        network, layers, calibration = open_conversion(model, data, preprocessing, settings, held_out)
        for path in files.models.values() if files else ():
            check_apart(network.original, path)
        impossible = _impossible(speedups, layers, settings, rank_block(network.provider))
        timer, device = conversion_timer(network, calibration, settings, monitor), solver_device(network.provider)
        targets = collect(network, layers, calibration, monitor)
        losses = rank_losses(layers, targets, settings, device, monitor)
        quick = not models if quick is None else quick
        solve_on = calibration.with_half_the_images(layers.eligible) if quick else calibration
        original = CachedSession(open_for_comparison(network, network.model))
        attempts = []
        for speedup in speedups:
            aim, place = replace(settings, speedup=speedup), files.models.get(speedup) if files else None
            attempt = _Attempt(speedup, monitor.restarted(), error=impossible.get(speedup))
            if attempt.error is not None:
                attempts.append(attempt)
                continue
            log.info("target %gx", speedup)
            try:
                plan, rows = choose_ranks(layers, losses, aim, timer), solve_on.rows_of(targets)
                converted = solve_network(network, layers, losses, plan, solve_on, rows, aim, attempt.monitor, device)
                file, converted = written_and_verified(
                    converted, place, original, network, layers, solve_on, attempt.monitor, publication
                )
            except (BudgetError, CalibrationError, VerificationError) as error:
                log.warning(_LEFT_OUT, speedup, error)
                attempts.append(replace(attempt, seconds=attempt.monitor.total, error=error))
            else:
                attempts.append(replace(attempt, seconds=attempt.monitor.total, file=file, converted=converted))
        _raise_where_all_failed(attempts)
        attempts = _timed(attempts, network, layers, settings, timer)
        results = {}
        for attempt in attempts:
            if (met := attempt.converted) is not None:
                result = report_on(met, network, layers, losses, solve_on, timer, attempt.monitor, attempt.file)
                for warning in result.report.warnings:
                    log.warning("target %gx: %s", attempt.speedup, warning)
                results[attempt.speedup] = result.written_to(files.models.get(attempt.speedup) if files else None)
        report = _curve(attempts, results, settings, calibration_report(network, calibration), solve_on.images)
        finished = Sweep(replace(report, seconds=monitor.total), tuple(results.values()) if models else ())
        if files is not None:
            add_texts(files.texts(finished), publication)
        return finished


def _check(speedups: Sequence[float], settings: Settings) -> None:
    """Raise for no or invalid speedups, and for settings that fix the ranks otherwise."""
    if not speedups:
        raise BudgetError("speedups: none given, wanted some numbers above 1: try `speedups=[2, 3, 4, 5]`")
    if settings.plan is not None or settings.max_drop is not None:
        raise ValueError("a sweep chooses ranks for its speedups: leave plan and max_drop out")
    for speedup in sorted(set(speedups)):
        replace(settings, speedup=speedup)  # raises for an invalid value


def _impossible(
    speedups: Sequence[float], layers: LayerSet, settings: Settings, block: int
) -> dict[float, BudgetError]:
    """Return the errors of speedups that the sizes of the layers rule out, with a warning for each.

    Raises:
        BudgetError: that of the smallest, where none is left.
    """
    errors = {}
    for speedup in speedups:
        try:
            check_reachable(layers, replace(settings, speedup=speedup), block)
        except BudgetError as error:
            errors[speedup] = error
    if len(errors) == len(speedups):
        raise errors[min(errors)]
    for speedup, reason in errors.items():
        log.warning(_LEFT_OUT, speedup, reason)
    return errors


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A conversion to one speedup: a network or an error.

    Attributes:
        speedup: the target.
        monitor: counts its seconds by stage.
        seconds: that it took in all.
        converted: the network.
        file: it, written, in a folder of its own.
        error: why there is none.
    """

    speedup: float
    monitor: Monitor
    seconds: float = 0.0
    converted: ConvertedNetwork | None = None
    file: Path | None = None
    error: LowRankError | None = None


def _raise_where_all_failed(attempts: Sequence[_Attempt]) -> None:
    """Raise the error of the smallest speedup where none could be met; one out of reach does not stop the others."""
    errors = [attempt.error for attempt in attempts if attempt.error is not None]
    if len(errors) == len(attempts):
        raise errors[0]


def _timed(
    attempts: Sequence[_Attempt], network: Network, layers: LayerSet, settings: Settings, timer: ConversionTimer
) -> list[_Attempt]:
    """Measure latencies in turns, so that all networks stand against the same original."""
    if not settings.bench or timer.layer_timer.foreign:
        return list(attempts)
    networks = [attempt.converted for attempt in attempts if attempt.converted is not None]
    latencies = iter(timer.time_all([network.as_run(each.solved) for each in networks]))
    timed = []
    for attempt in attempts:
        if (converted := attempt.converted) is not None:
            latency = next(latencies)
            slow = slow_warnings(latency, layers, converted.plan, converted.settings, timer)
            timed.append(replace(attempt, converted=converted.with_measurements(latency=latency, slow=slow)))
        else:
            timed.append(attempt)
    return timed


def _curve(
    attempts: Sequence[_Attempt],
    results: Mapping[float, Result],
    settings: Settings,
    calibration: Calibration,
    solved_images: int,
) -> CurveReport:
    """Put the numbers of all speedups together; the seconds of the whole are not known yet."""
    points = []
    for attempt in attempts:
        if attempt.converted is None:
            points.append(CurvePoint(attempt.speedup, attempt.seconds, error=str(attempt.error)))
        else:
            accuracy = _accuracy(attempt.converted.measurements.comparison, 1)
            points.append(CurvePoint.of_report(results[attempt.speedup].report, accuracy, attempt.seconds))
    first = next(attempt.converted.measurements for attempt in attempts if attempt.converted is not None)
    report = next(iter(results.values())).report
    comparison, latency = first.comparison, first.latency
    return CurveReport(
        version=__version__,
        seed=settings.seed,
        input=report.input,
        cost=settings.cost,
        calibration=calibration,
        refine=settings.refine,
        solved_images=solved_images,
        held_out=comparison.images if comparison else 0,
        macs=report.macs[0],
        parameters=report.parameters[0],
        milliseconds=None if latency is None else latency.before.median_ms,
        accuracy=_accuracy(comparison, 0),
        latency=None if latency is None else {"batch": latency.batch, "threads": latency.threads or None},
        points=with_front(points, settings.cost),
        seconds=0.0,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _accuracy(comparison: Comparison | None, model: int) -> dict[str, float] | None:
    """Return the accuracy by name, of the original (0) or of the converted network (1); None where it is not known."""
    if comparison is None or comparison.accuracy is None:
        return None
    return {name: pair[model] for name, pair in vars(comparison.accuracy).items()}
