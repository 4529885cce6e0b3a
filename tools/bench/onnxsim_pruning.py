"""Structured pruning by onnxsim 0.8.1: channels of chains of layers, alike everywhere, without compensation.

``pip install onnxsim==0.8.1``
"""

from __future__ import annotations

import onnx

from network import Network, largest_share

_SAMPLES = 100  # that rank channels, at most


def prune(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """Prune to a speedup, or as far as it goes; channels are ranked by weights and by activations on samples.

    The share of channels that goes is searched with one sample: how many go does not depend on their ranks.
    """
    import onnxsim  # noqa: PLC0415 - only this row needs it

    model, _ = onnxsim.simplify(onnx.load(network.model))  # it prunes no weights that are in Constant nodes
    inputs = network.inputs(min(_SAMPLES, network.samples))
    batches = [{network.input_name: sample[None]} for sample in inputs]

    def pruned(kept: float, samples: int) -> onnx.ModelProto:
        result: onnx.ModelProto = onnxsim.apply_structured_wanda_pruning(model, batches[:samples], sparsity=1 - kept)
        return result

    kept = largest_share(lambda kept: network.speedup(pruned(kept, 1)) >= speedup, steps=8)
    smaller = pruned(kept, len(batches))
    return smaller, network.speedup(smaller)
