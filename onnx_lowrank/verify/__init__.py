"""The written model against the original: structure, outputs, accuracy, latency."""

from onnx_lowrank.verify.latency import Pace, Timing, time_in_turns
from onnx_lowrank.verify.outputs import Comparison, OutputFidelity, compare_outputs
from onnx_lowrank.verify.samples import Sample
from onnx_lowrank.verify.structure import check_structure, check_untouched

__all__ = [
    "Comparison",
    "OutputFidelity",
    "Pace",
    "Sample",
    "Timing",
    "check_structure",
    "check_untouched",
    "compare_outputs",
    "time_in_turns",
]
