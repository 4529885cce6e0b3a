"""Errors and costs of every layer -> the rank plan."""

from onnx_lowrank.ranks.latency import ChainLatency, LatencyTable, Machine, chain_key
from onnx_lowrank.ranks.options import Cost, allowed_methods, layer_options
from onnx_lowrank.ranks.select import Option, depth_weights, select
from onnx_lowrank.ranks.spectrum import paper_truncation, ranks_keeping, response_energies
from onnx_lowrank.ranks.truncation import Truncation, measure_truncation

__all__ = [
    "ChainLatency",
    "Cost",
    "LatencyTable",
    "Machine",
    "Option",
    "Truncation",
    "allowed_methods",
    "chain_key",
    "depth_weights",
    "layer_options",
    "measure_truncation",
    "paper_truncation",
    "ranks_keeping",
    "response_energies",
    "select",
]
