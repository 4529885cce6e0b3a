"""Path -> model, the layers that can be factorized, and the reason for every other one."""

from onnx_lowrank.load.find_layers import find_layers, node_names, weighted_tensors
from onnx_lowrank.load.first_statistics import first_responses
from onnx_lowrank.load.inline import inline_functions
from onnx_lowrank.load.read import read_model
from onnx_lowrank.load.single import in_single_precision, is_in_other_precision

__all__ = [
    "find_layers",
    "first_responses",
    "in_single_precision",
    "inline_functions",
    "is_in_other_precision",
    "node_names",
    "read_model",
    "weighted_tensors",
]
