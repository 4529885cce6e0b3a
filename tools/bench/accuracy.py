"""Accuracy per multiply-add: every method that needs no training, on the same images and at the same cost.

Usage::

    pip install tensorly onnxsim==0.8.1 torch-pruning==1.6.1 onnx2torch
    python tools/bench/accuracy.py efficientnet-lite0 --shared ../shared [--speedups 1.5,2] [--json accuracy.json]
    python tools/bench/accuracy.py ocr-detection --shared ../shared [--methods ours,version] [--against CHECKOUT]
    python tools/bench/accuracy.py cifar10 --shared ../shared [--aimet ENVIRONMENT/bin/python]

``--aimet`` adds AIMET's own spatial SVD, see `aimet_svd.py`; only where the loss is one of the outputs. ``--against``
adds another version of this tool, as in ``git worktree add CHECKOUT COMMIT``. A row needs only its own packages.
Leave Torch-Pruning out for the OCR networks: onnx2torch ends with a KeyError at weights in Constant nodes.

One row per method and speedup: the loss of the converted network on samples that were not used for solving, and its
actual speedup in multiply-adds. The data-free rows give every layer the same share of its largest rank; the paper's
rows select ranks as the paper does. Both may use any rank, ours only multiples of the provider's block.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from network import Network, convolutions, largest_share
from onnx_lowrank.graph import replace_layer
from onnx_lowrank.layers.cost import chain_macs
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.solve import solve_layer
from yardsticks import NETWORKS, uniform_plan

Ranks = tuple[int, int]
Method = Callable[[Network, float], tuple[onnx.ModelProto, float]]


def main() -> None:
    """Measure all methods on one network and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--speedups", help="instead of the network's own, as in 2,4")
    parser.add_argument("--aimet", help="the Python that has aimet-torch")
    parser.add_argument("--against", type=Path, help="a checkout of another version of this tool")
    parser.add_argument("--threads", type=int, help="to convert with; all if not given")
    parser.add_argument("--methods", help="only rows whose name contains one of these, as in ours,SVD")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    network = replace(NETWORKS[arguments.network](arguments.shared), threads=arguments.threads)
    speedups = [float(text) for text in arguments.speedups.split(",")] if arguments.speedups else network.speedups
    print(f"{platform.machine()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}")
    print(f"{network.name}: {network.unit}", flush=True)
    rows = []
    for name, method in _wanted(arguments).items():
        for speedup in speedups:
            start = time.perf_counter()
            try:
                model, reached = method(network, speedup)
            except subprocess.CalledProcessError as error:  # such as another version that finds its result too bad
                print(f"{name:34} {speedup:5.2f}x  {error.stderr.decode().strip().splitlines()[-1]}", flush=True)
                continue
            seconds = time.perf_counter() - start
            rows.append({"method": name, "macs": reached, "loss": network.loss(model), "s": seconds})
            print(f"{name:34} {reached:5.2f}x  {rows[-1]['loss']:8.4f}  {seconds:5.0f} s", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def weight_svd(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """kh x kw with fewer filters, then 1 x 1, from the weights alone."""
    return _from_weights(network, speedup, "channel")


def spatial_svd(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """kh x 1, then 1 x kw, from the weights alone: what AIMET calls spatial SVD, without its search for ranks."""
    return _from_weights(network, speedup, "spatial")


def tucker2(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """1 x 1, kh x kw, 1 x 1 by tensorly's partial Tucker decomposition of the weights."""
    layers, skipped = convolutions(network)
    whole = sum(layer.macs for layer in layers) + skipped
    share = largest_share(
        lambda share: sum(_tucker_macs(layer, share) for layer in layers) <= whole / speedup - skipped
    )
    model = onnx.load(network.model)
    for layer in layers:
        if _tucker_macs(layer, share) < layer.macs:
            replace_layer(model, layer, _tucker(layer, _tucker_ranks(layer, share)))
    return model, network.speedup(model)


def onnxsim_pruning(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """Channels left out by onnxsim, ranked by weights and activations; as far as it goes."""
    from onnxsim_pruning import prune  # noqa: PLC0415 - only this row needs onnxsim

    return prune(network, speedup)


def torch_pruning(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """Channels left out by Torch-Pruning, ranked by weights."""
    from torch_pruning_on_onnx import prune  # noqa: PLC0415 - only this row needs PyTorch

    return prune(network, speedup)


def paper_channel(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """Zhang et al.: nonlinear, asymmetric, ranks selected by PCA energy."""
    return _converted(network, speedup=speedup, method="channel", selection="energy", rank_multiple=1)


def paper_3d(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """Zhang et al.'s asymmetric 3D: channel ranks for the square root of the speedup, spatial ranks for the rest."""
    settings: dict[str, Any] = {"method": "channel", "selection": "energy", "rank_multiple": 1}
    channel = network.convert(speedup=sqrt(speedup), dry_run=True, **settings).plan
    layers, skipped = convolutions(network)
    budget = (sum(layer.macs for layer in layers) + skipped) / speedup - skipped

    def split(share: float) -> RankPlan:
        return RankPlan(tuple(_split(layer, entry, share) for layer, entry in zip(layers, channel, strict=True)))

    def fits(share: float) -> bool:
        return sum(chain_macs(layer, entry) for layer, entry in zip(layers, split(share), strict=True)) <= budget

    return _converted(network, plan=split(largest_share(fits)), solver="paper")


def ours(network: Network, speedup: float) -> tuple[onnx.ModelProto, float]:
    """This tool with its defaults."""
    return _converted(network, speedup=speedup)


def aimet(network: Network, speedup: float, *, python: str) -> tuple[onnx.ModelProto, float]:
    """AIMET's spatial SVD, data-free, its ranks searched greedily on 100 calibration samples."""
    with tempfile.TemporaryDirectory() as folder:
        samples, output = Path(folder) / "samples.npy", Path(folder) / "out.onnx"
        np.save(samples, network.inputs(100))
        script = Path(__file__).with_name("aimet_svd.py")
        command = [python, str(script), str(network.model), str(samples), str(speedup), str(output)]
        subprocess.run(command, check=True, capture_output=True)
        model = onnx.load(output)
    return model, network.speedup(model)


def another_build(network: Network, speedup: float, *, checkout: Path) -> tuple[onnx.ModelProto, float]:
    """Another version of this tool with its defaults, on the same samples, which it also verifies its result on."""
    with tempfile.TemporaryDirectory() as folder:
        samples, output = Path(folder) / "samples.npy", Path(folder) / "out.onnx"
        np.save(samples, network.inputs(network.samples))
        command = [sys.executable, "-m", "onnx_lowrank", str(network.model.resolve()), str(output), "--no-bench"]
        command += ["--data", str(samples), "--samples", str(network.samples), "--speedup", str(speedup)]
        command += ["--threads", str(network.threads)] if network.threads else []
        subprocess.run(command, check=True, capture_output=True, cwd=checkout)  # which `-m` imports from
        model = onnx.load(output)
    return model, network.speedup(model)


METHODS: dict[str, Method] = {
    "weight SVD, data-free": weight_svd,
    "spatial SVD, data-free": spatial_svd,
    "Tucker-2, data-free (tensorly)": tucker2,
    "structured pruning (onnxsim)": onnxsim_pruning,
    "structured pruning (Torch-Pruning)": torch_pruning,
    "asymmetric (paper)": paper_channel,
    "asymmetric 3D (paper)": paper_3d,
    "ours": ours,
}


def _wanted(arguments: argparse.Namespace) -> dict[str, Method]:
    """Return the methods to measure, by name."""
    methods = dict(METHODS)
    if arguments.aimet:
        methods["spatial SVD (AIMET)"] = partial(aimet, python=arguments.aimet)
    if arguments.against:
        methods[f"version {arguments.against.name}"] = partial(another_build, checkout=arguments.against)
    parts = arguments.methods.split(",") if arguments.methods else [""]
    return {name: method for name, method in methods.items() if any(part in name for part in parts)}


def _converted(network: Network, **settings: Any) -> tuple[onnx.ModelProto, float]:
    result = network.convert(**settings)
    assert result.model is not None
    return result.model, result.report.speedup


def _from_weights(network: Network, speedup: float, method: str) -> tuple[onnx.ModelProto, float]:
    plan, reached = uniform_plan(network, speedup, method)
    layers, _ = convolutions(network)
    model = onnx.load(network.model)
    for layer, entry in zip(layers, plan, strict=True):
        if entry.method != "kept":
            nothing = LayerSamples(
                TargetResponses(np.zeros((0, layer.filters))), np.zeros((0, *layer.weight.shape[1:]))
            )
            replace_layer(model, layer, solve_layer(layer, nothing, entry, "weights"))
    return model, reached


def _split(layer: Layer, entry: LayerPlan, share: float) -> LayerPlan:
    """Give a channel plan the most vertical filters that cost at most ``share`` of it; a kept layer has full ranks."""
    most = share * chain_macs(layer, entry)
    channel = entry.channel or layer.filters
    chains = [
        LayerPlan(layer.name, "spatial-channel", channel, rank)
        for rank in range(1, min(layer.channels * layer.kernel[0], channel * layer.kernel[1]) + 1)
    ]
    affordable = [chain for chain in chains if chain_macs(layer, chain) <= most]
    return affordable[-1] if affordable else entry


def _tucker_ranks(layer: Layer, share: float) -> Ranks:
    """Return ranks over filters and channels; a layer with few channels keeps them all."""
    return max(1, int(share * layer.filters)), max(min(8, layer.channels), int(share * layer.channels))


def _tucker_macs(layer: Layer, share: float) -> int:
    filters, channels = _tucker_ranks(layer, share)
    before, behind = prod(layer.input_size) * layer.channels * channels, prod(layer.positions) * filters * layer.filters
    return min(layer.macs, before + prod(layer.positions) * prod(layer.kernel) * channels * filters + behind)


def _tucker(layer: Layer, ranks: Ranks) -> FactorChain:
    from tensorly.decomposition import partial_tucker  # noqa: PLC0415 - only this row needs it

    (core, (filters, channels)), _ = partial_tucker(layer.weight.astype(np.float64), rank=list(ranks), modes=[0, 1])
    axes = len(layer.kernel)
    before, behind = (np.expand_dims(each, tuple(range(2, 2 + axes))) for each in (channels.T, filters))
    chain = (
        Convolution(before, None, pointwise(axes)),
        Convolution(core, None, layer.geometry),
        Convolution(behind, layer.bias.astype(np.float64), pointwise(axes)),
    )
    return FactorChain(chain, SolveErrors(0.0, 0.0))


if __name__ == "__main__":
    main()
