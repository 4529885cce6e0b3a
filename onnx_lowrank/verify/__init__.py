"""The written model against the original: structure, outputs, accuracy, latency."""

from onnx_lowrank.verify.cached_session import Remembered, Runs
from onnx_lowrank.verify.drop import Drop, measure_drop
from onnx_lowrank.verify.examples import Sample
from onnx_lowrank.verify.intervals import CONFIDENCE, share_interval
from onnx_lowrank.verify.outputs import Comparison, OutputFidelity, compare_outputs
from onnx_lowrank.verify.structure import check_structure, check_untouched

__all__ = [
    "CONFIDENCE",
    "Comparison",
    "Drop",
    "OutputFidelity",
    "Remembered",
    "Runs",
    "Sample",
    "check_structure",
    "check_untouched",
    "compare_outputs",
    "measure_drop",
    "share_interval",
]
