"""From errors and costs of every layer to the rank plan.

- choose.py: method and ranks of every layer within a budget
- within.py: what layers may be, and the best of it within a budget of any kind
- milliseconds.py: budgets of measured milliseconds
- gpu.py: what pays on a GPU
- options.py: the plans that a layer can get, with their costs and energies
- select.py: one option per layer, by dynamic programming
- coupled.py: the same where fewer channels read are fewer ones made
- chain_latency.py: measured milliseconds as a cost
- spectrum.py: energy in place of measured errors, as in the paper
- search.py: the largest speedup within an accuracy loss
"""

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
