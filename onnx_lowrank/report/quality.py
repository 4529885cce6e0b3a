"""What a converted network is worth: the metric of the user, and what a detector finds, on held-out samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate import iterate_batches
from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.calibrate.metric_samples import metric_samples
from onnx_lowrank.graph import read_model
from onnx_lowrank.metrics import as_metric
from onnx_lowrank.metrics.readings import recognized_reader
from onnx_lowrank.report.converted import ConvertedNetwork
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify import CachedSession, MetricJudge, found_examples, metric_loss
from onnx_lowrank.verify.conversion import MAX_PICTURES, open_for_comparison, predictor_of

_MOST_SEARCHED = 48  # held-out samples among which those are found that the page of a detector shows


def open_judge(
    network: Network,
    calibration: CalibrationSet,
    indices: NDArray[np.int64],
    settings: Settings,
    monitor: Monitor,
) -> MetricJudge | None:
    """Return what measures networks by the metric of the settings; None where that is none.

    Args:
        network: the original, which is measured at once.
        calibration: the samples.
        indices: which of them to measure on.
        settings: with the metric.
        monitor: watches.
    """
    if settings.metric is None:
        return None
    samples = metric_samples(calibration.samples, indices, lambda: calibration.batches(indices, monitor, "judge"))
    runs = CachedSession(open_for_comparison(network, network.model))
    return MetricJudge(as_metric(settings.metric), predictor_of(network, runs), samples)


def judged_by_metric(
    converted: ConvertedNetwork, file: Path, network: Network, judge: MetricJudge | None, monitor: Monitor
) -> ConvertedNetwork:
    """Return a converted network with the metric of its written file; the same without a judge."""
    if judge is None:
        return converted
    with monitor.measure("verify"):
        runs = CachedSession(open_for_comparison(network, network.as_run(read_model(file))))
        measured = judge.measure(predictor_of(network, runs))
        found = judge.examples(predictor_of(network, runs), MAX_PICTURES)
    loss = None
    if converted.settings.max_drop is not None:
        loss = metric_loss(measured, converted.settings.drop_type)
    return converted.with_measurements(metric=measured, loss=loss, found=found)


def with_found_objects(
    converted: ConvertedNetwork,
    file: Path,
    network: Network,
    original: CachedSession,
    calibration: CalibrationSet,
    monitor: Monitor,
) -> ConvertedNetwork:
    """Return a converted detector with what both networks find in some held-out samples; others are left as they are.

    ``original`` runs the original, and still has its outputs from verification.
    """
    before = predictor_of(network, original)
    batch = calibration.one_batch
    if (read := recognized_reader(before(batch), batch)) is None:
        return converted
    few = calibration.split.held_out[:_MOST_SEARCHED]
    with monitor.measure("verify"):
        batches = iterate_batches(calibration.samples, few, calibration.split.batch_size)
        after = predictor_of(network, open_for_comparison(network, network.as_run(read_model(file))))
        found = found_examples(read, before, after, batches, MAX_PICTURES)
    return converted.with_measurements(found=found)
