"""Errors and costs of every layer -> the rank plan."""

from onnx_lowrank.ranks.chain_latency import ChainLatency
from onnx_lowrank.ranks.options import Cost, allowed_methods, layer_options
from onnx_lowrank.ranks.select import Option, depth_weights, select
from onnx_lowrank.ranks.spectrum import energy_losses, ranks_keeping, response_energies

__all__ = [
    "ChainLatency",
    "Cost",
    "Option",
    "allowed_methods",
    "depth_weights",
    "energy_losses",
    "layer_options",
    "ranks_keeping",
    "response_energies",
    "select",
]
