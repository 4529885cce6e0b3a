"""Verification of a converted model: its structure, its outputs and its accuracy, compared with the original's."""

from onnx_lowrank.verify.accuracy_loss import AccuracyLoss, measure_loss, metric_loss
from onnx_lowrank.verify.cached_session import CachedSession, Runnable
from onnx_lowrank.verify.examples import ExamplePrediction
from onnx_lowrank.verify.found_examples import FoundExample, found_examples
from onnx_lowrank.verify.intervals import CONFIDENCE, share_interval
from onnx_lowrank.verify.metric_judge import MetricJudge
from onnx_lowrank.verify.outputs import Comparison, OutputFidelity, compare_outputs, scored_classes
from onnx_lowrank.verify.structure import check_structure, check_untouched

__all__ = [
    "CONFIDENCE",
    "AccuracyLoss",
    "CachedSession",
    "Comparison",
    "ExamplePrediction",
    "FoundExample",
    "MetricJudge",
    "OutputFidelity",
    "Runnable",
    "check_structure",
    "check_untouched",
    "compare_outputs",
    "found_examples",
    "measure_loss",
    "metric_loss",
    "scored_classes",
    "share_interval",
]
