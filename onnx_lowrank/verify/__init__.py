"""The written model against the original: structure, outputs, accuracy, latency."""

from onnx_lowrank.verify.drop import Drop, measure_drop
from onnx_lowrank.verify.intervals import CONFIDENCE, share_interval
from onnx_lowrank.verify.latency import Pace, Timing, time_in_turns
from onnx_lowrank.verify.outputs import Comparison, OutputFidelity, compare_outputs
from onnx_lowrank.verify.remembered import Remembered, Runs
from onnx_lowrank.verify.samples import Sample
from onnx_lowrank.verify.structure import check_structure, check_untouched

__all__ = [
    "CONFIDENCE",
    "Comparison",
    "Drop",
    "OutputFidelity",
    "Pace",
    "Remembered",
    "Runs",
    "Sample",
    "Timing",
    "check_structure",
    "check_untouched",
    "compare_outputs",
    "measure_drop",
    "share_interval",
    "time_in_turns",
]
