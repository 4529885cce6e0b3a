"""Errors and costs of every layer -> the rank plan."""

from onnx_lowrank.ranks.options import layer_options
from onnx_lowrank.ranks.select import Option, depth_weights, select
from onnx_lowrank.ranks.spectrum import paper_truncation
from onnx_lowrank.ranks.truncation import Truncation, measure_truncation

__all__ = ["Option", "Truncation", "depth_weights", "layer_options", "measure_truncation", "paper_truncation", "select"]
