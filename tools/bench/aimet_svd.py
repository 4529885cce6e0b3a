"""AIMET's spatial SVD with its greedy search for ranks, on an ONNX model: what `accuracy.py --aimet` runs.

Usage, in a virtual environment of its own with aimet-torch 2.42, onnx2torch, onnx and torch::

    python tools/bench/aimet_svd.py IN.onnx SAMPLES.npy SPEEDUP OUT.onnx

Ranks are scored by how close the outputs stay on SAMPLES (the model's one input, channels first, float32).
"""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import Any

import numpy as np
import onnx

from torchvision_stand_in import stand_in_for_torchvision


def main() -> None:
    """Convert one model."""
    source, samples, speedup, output = sys.argv[1:]
    stand_in_for_torchvision()
    import torch  # noqa: PLC0415 - this and the next only behind the stand-in
    from aimet_torch.common.defs import CostMetric, GreedySelectionParameters  # noqa: PLC0415
    from aimet_torch.compress import CompressionScheme, ModelCompressor  # noqa: PLC0415
    from aimet_torch.defs import SpatialSvdParameters  # noqa: PLC0415
    from onnx2torch import convert  # noqa: PLC0415

    module: Any = convert(source).eval()
    x = torch.from_numpy(np.load(samples))
    with torch.no_grad():
        expected = module(x)

    def score(candidate: Any, _iterations: int | None, use_cuda: bool = False) -> float:  # noqa: ARG001
        with torch.no_grad():
            return float(1 - (candidate(x) - expected).norm() / expected.norm())

    greedy = GreedySelectionParameters(target_comp_ratio=Decimal(1) / Decimal(speedup), num_comp_ratio_candidates=10)
    automatic = SpatialSvdParameters.AutoModeParams(greedy, modules_to_ignore=[])
    compressed, statistics = ModelCompressor.compress_model(
        module,
        score,
        None,
        tuple(x[:1].shape),
        CompressionScheme.spatial_svd,
        CostMetric.mac,
        SpatialSvdParameters(SpatialSvdParameters.Mode.auto, automatic),
    )
    print(statistics)
    graph = onnx.load(source).graph
    names: dict[str, Any] = {"input_names": [graph.input[0].name], "output_names": [graph.output[0].name]}
    axes = {graph.input[0].name: {0: "N"}, graph.output[0].name: {0: "N"}}
    torch.onnx.export(compressed, (x[:1],), output, dynamo=False, dynamic_axes=axes, **names)


if __name__ == "__main__":
    main()
