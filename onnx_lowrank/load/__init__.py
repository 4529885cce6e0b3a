"""Path -> model, the layers that can be factorized, and the reason for every other one."""

from onnx_lowrank.load.find_layers import find_layers, node_names, weighted_tensors
from onnx_lowrank.load.inline import inline_functions
from onnx_lowrank.load.read import read_model

__all__ = ["find_layers", "inline_functions", "node_names", "read_model", "weighted_tensors"]
