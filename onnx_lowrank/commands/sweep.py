"""Several speedups from one calibration: what accuracy costs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from onnx_lowrank.calibrate import Preprocessing
from onnx_lowrank.calibrate.split import MAX_CALIBRATION_SAMPLES, MAX_HELD_OUT_SAMPLES
from onnx_lowrank.commands.sweep_points import Sweep, SweepFiles, SweepPoint, SweepRecord, model_reports
from onnx_lowrank.commands.sweep_solving import ReadyNetwork
from onnx_lowrank.errors import BudgetError, CalibrationError, LowRankError, ModelError, VerificationError
from onnx_lowrank.graph import Publication, add_texts, check_apart, new_folder
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.pipeline import (
    collect,
    conversion_timer,
    open_conversion,
    output_weights,
    rank_losses,
    report_on,
    written_and_verified,
)
from onnx_lowrank.ranks.choose import check_reachable
from onnx_lowrank.report.build import calibration_report, report_warnings
from onnx_lowrank.report.converted import ConvertedNetwork
from onnx_lowrank.report.quality import judged_by_metric, open_judge
from onnx_lowrank.report.result import Result
from onnx_lowrank.runtime.device import rank_block
from onnx_lowrank.runtime.latency import ConversionTimer
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.processors import linear_algebra_threads
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.written_file import slow_warnings
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve.device import solver_device
from onnx_lowrank.verify import CachedSession, MetricJudge, Runnable
from onnx_lowrank.verify.conversion import open_for_comparison

log = logging.getLogger(__name__)

_LEFT_OUT = "target %gx is left out: %s"
_HELD_OUT_PER_CALIBRATION_IMAGE = 2  # 100 held-out samples tell agreements of 95 and of 97 % apart badly


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
    force: bool = False,
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
        force: overwrite existing files.
        progress: watches the stages.
        **changes: fields of `Settings` to change, as in ``sweep(model, data, labels=True)``.

    Returns:
        Its points, and the conversions if they were asked for.

    Raises:
        LowRankError: anything the user can fix; that of the smallest speedup where none can be met.
        TypeError, ValueError: wrong settings.
    """
    settings, monitor = (settings or Settings()).changed(changes), Monitor(progress)
    _check(speedups, settings)
    speedups = sorted(set(speedups))
    with linear_algebra_threads(settings.threads), contextlib.ExitStack() as stack:
        files = None if output is None else SweepFiles.of(Path(output), model, speedups if models else ()).checked()
        if files is not None:
            files.check(force=force)
            stack.enter_context(new_folder(files.folder))
        held_out = max(
            MAX_HELD_OUT_SAMPLES, _HELD_OUT_PER_CALIBRATION_IMAGE * (settings.samples or MAX_CALIBRATION_SAMPLES)
        )
        network, layers, calibration = open_conversion(model, data, preprocessing, settings, held_out)
        for path in files.models.values() if files else ():
            check_apart(network.original, path)
        impossible = _impossible(speedups, layers, settings, rank_block(network.provider))
        judge = open_judge(network, calibration, calibration.split.held_out, settings, monitor)
        timer = stack.enter_context(contextlib.closing(conversion_timer(network, calibration, settings, monitor)))
        device, targets = solver_device(network.provider), collect(network, layers, calibration, monitor)
        weights = output_weights(network, layers, calibration, settings, monitor)
        losses = rank_losses(layers, targets, calibration.images, settings, device, monitor, weights)
        quick = not models if quick is None else quick
        solve_on = calibration.with_half_the_images(layers.eligible) if quick else calibration
        original = CachedSession(open_for_comparison(network, network.model))
        used = calibration_report(network, calibration)
        record = SweepRecord(settings, used, solve_on.images, files, monitor, models=models)
        stack.enter_context(record.kept(len(speedups)))
        ready = ReadyNetwork(network, layers, losses, solve_on, targets, timer, device, weights)
        solved = ready.solved([each for each in speedups if each not in impossible], settings, monitor)
        stack.enter_context(contextlib.closing(solved))
        networks = {}
        for speedup in speedups:
            if speedup in impossible:
                record.add(SweepPoint(speedup, 0.0, error=impossible[speedup]))
                continue
            own_monitor, converted = next(solved)
            try:
                if isinstance(converted, LowRankError):
                    raise converted
                place = files.models.get(speedup) if files else None
                converted, result = _published(converted, place, original, ready, judge, own_monitor)
            except (BudgetError, CalibrationError, VerificationError) as error:
                log.warning(_LEFT_OUT, speedup, error)
                record.add(SweepPoint(speedup, own_monitor.total, error=error))
            else:
                for warning in result.report.warnings:
                    log.warning("target %gx: %s", speedup, warning)
                networks[speedup] = converted
                record.add(SweepPoint(speedup, own_monitor.total, result, converted.measurements.comparison))
        next(solved, None)  # so that whoever watches sees that the last one is done
        _raise_where_all_failed(record.points)
        timed = _timed(networks, network, layers, settings, timer)
        record.points = [
            _with_latency(point, timed[point.speedup]) if point.speedup in timed else point for point in record.points
        ]
        return record.write(complete=True)


def _published(
    converted: ConvertedNetwork,
    place: Path | None,
    original: Runnable,
    ready: ReadyNetwork,
    judge: MetricJudge | None,
    monitor: Monitor,
) -> tuple[ConvertedNetwork, Result]:
    """Verify a network, and put it and its report in their place if there is one."""
    network, layers, calibration = ready.network, ready.layers, ready.calibration
    with Publication() as publication:
        file, converted = written_and_verified(
            converted, place, original, network, layers, calibration, monitor, publication
        )
        converted = judged_by_metric(converted, file, network, judge, monitor)
        result = report_on(converted, network, layers, ready.losses, calibration, ready.timer, monitor, file)
        result = result.written_to(place)
        add_texts(model_reports([result]), publication)
    return converted, result


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


def _raise_where_all_failed(points: Sequence[SweepPoint]) -> None:
    """Raise the error of the smallest speedup where none could be met; one out of reach does not stop the others."""
    errors = [point.error for point in points if point.error is not None]
    if len(errors) == len(points):
        raise errors[0]


def _timed(
    converted: Mapping[float, ConvertedNetwork],
    network: Network,
    layers: LayerSet,
    settings: Settings,
    timer: ConversionTimer,
) -> dict[float, ConvertedNetwork]:
    """Measure latencies by speedup in turns, so that all networks stand against the same original."""
    if not settings.bench or timer.layer_timer.foreign:
        return {}
    models = [network.as_run(each.solved) for each in converted.values()]
    try:
        differing = timer.disagreements(models)
        latencies = timer.time_all(models)
    except ModelError as error:
        log.warning("not measured in %s: %s", settings.runtime, error)
        return {}
    return {
        speedup: each.with_measurements(
            latency=latency, slow=slow_warnings(latency, layers, each.plan, each.settings, timer), differing=differs
        )
        for (speedup, each), latency, differs in zip(converted.items(), latencies, differing, strict=True)
    }


def _with_latency(point: SweepPoint, timed: ConvertedNetwork) -> SweepPoint:
    """Return a point with the latency of its network, and log what that gives reason to warn of."""
    if point.result is None or timed.measurements.latency is None:
        return point
    report = replace(point.result.report, latency=timed.measurements.latency.to_dict())
    report = replace(report, warnings=report_warnings(report, timed.settings, timed.measurements))
    for warning in report.warnings:
        if warning not in point.result.report.warnings:
            log.warning("target %gx: %s", point.speedup, warning)
    return replace(point, latency=timed.measurements.latency, result=replace(point.result, report=report))
