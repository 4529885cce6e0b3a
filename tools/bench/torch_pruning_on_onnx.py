"""Structured pruning by Torch-Pruning 1.6.1: groups of channels by their norm, alike everywhere, without compensation.

``pip install torch-pruning==1.6.1 onnx2torch``

It follows the layers of a module. The module of `onnx_lowrank.torch.to_torch` has none, only weights: it warns of
"Unwrapped parameters" and finds no group. So the module is onnx2torch's.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from network import Network, largest_share
from torchvision_stand_in import stand_in_for_torchvision


def prune(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """Prune to a speedup: the smallest share of channels goes that reaches it."""
    x = torch.from_numpy(network.inputs(1))

    def pruned(kept: float) -> onnx.ModelProto:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of every shape that it takes as constant
            return _pruned(network, x, 1 - kept)

    kept = largest_share(lambda kept: network.speedup(pruned(kept)) >= speedup, steps=8)
    model = pruned(kept)
    return model, network.speedup(model)


def _pruned(network: Network, x: torch.Tensor, share: float) -> onnx.ModelProto:
    """Return the network without a share of the channels of every group, but those of its last layer."""
    stand_in_for_torchvision()
    import torch_pruning  # noqa: PLC0415 - this and the next only behind the stand-in
    from onnx2torch import convert  # noqa: PLC0415

    module: Any = convert(str(network.model)).eval()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    torch_pruning.pruner.BasePruner(
        module,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=share,
        ignored_layers=layers[-1:],
    ).step()
    return _exported(module, network, x)


def _exported(module: nn.Module, network: Network, x: torch.Tensor) -> onnx.ModelProto:
    """Return a module as ONNX, with the names of the original."""
    (output,) = onnx.load(network.model).graph.output
    axes = {name: {0: "N"} for name in (network.input_name, output.name)}
    names: dict[str, Any] = {"input_names": [network.input_name], "output_names": [output.name]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(module, (x,), file, dynamo=False, dynamic_axes=axes, **names)
        return onnx.load(file)
