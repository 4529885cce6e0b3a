"""Structured pruning by onnxsim 0.8.1: channels of chains of layers, alike everywhere, without compensation.

``pip install onnxsim==0.8.1``
"""

from __future__ import annotations

import onnx

from network import Network, largest_share


def prune(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """Prune to a speedup, or as far as it goes; channels are ranked by weights and by activations on the samples.

    The share of channels that goes is searched with the ranking by weights alone, which is quick and leaves the same
    shapes.
    """
    import onnxsim  # noqa: PLC0415 - only this row needs it

    model, _ = onnxsim.simplify(onnx.load(network.model))  # it prunes no weights that are in Constant nodes

    def fits(kept: float) -> bool:
        return network.speedup(onnxsim.apply_structured_pruning(model, sparsity=1 - kept)) >= speedup

    sparsity = 1 - largest_share(fits, steps=10)
    batches = [{network.input_name: sample[None]} for sample in network.inputs(network.samples)]
    pruned = onnxsim.apply_structured_wanda_pruning(model, batches, sparsity=sparsity)
    return pruned, network.speedup(pruned)
