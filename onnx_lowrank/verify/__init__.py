"""The written model against the original: structure, outputs, accuracy."""

from onnx_lowrank.verify.outputs import Comparison, OutputFidelity, compare_outputs
from onnx_lowrank.verify.structure import check_structure

__all__ = ["Comparison", "OutputFidelity", "check_structure", "compare_outputs"]
