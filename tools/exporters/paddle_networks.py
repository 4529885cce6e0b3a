"""Write small networks of Paddle through paddle2onnx: ``python paddle_networks.py FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from spectrum import falling, image_batch

SIZE = 64


def network() -> Any:
    """Return what a tutorial builds: convolutions, BatchNormalization, a transposed convolution, a classifier."""
    return nn.Sequential(
        nn.Conv2D(3, 32, 3, 2, padding=1, bias_attr=False),
        nn.BatchNorm2D(32),
        nn.ReLU(),
        nn.Conv2D(32, 64, 3, padding=1),
        nn.Hardswish(),
        nn.Conv2DTranspose(64, 32, 2, 2),
        nn.Conv2D(32, 64, 1),
        nn.Silu(),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def with_falling_spectra(model: Any) -> Any:
    """Give a model weights as trained ones are, and statistics of BatchNormalization that fit them."""
    generator = np.random.default_rng(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(falling(generator, tuple(parameter.shape), filters_last=parameter.ndim == 2))
    batch = paddle.to_tensor(image_batch(np.random.default_rng(1), (8, 3, SIZE, SIZE)))
    model.train()
    for _ in range(10):
        model(batch)
    model.eval()
    return model


def main(folder: Path) -> None:
    """Write the networks into a folder; what the exporter refuses is printed."""
    shape = [paddle.static.InputSpec([None, 3, SIZE, SIZE], "float32", "images")]
    builds: dict[str, Callable[[], Any]] = {
        "plain": network,
        "mobilenetv3": lambda: paddle.vision.models.mobilenet_v3_small(num_classes=10, scale=0.5),
        "resnet18": lambda: paddle.vision.models.resnet18(num_classes=10),
    }
    for name, build in builds.items():
        model = with_falling_spectra(build())
        try:
            paddle.onnx.export(model, str(folder / name), input_spec=shape, opset_version=17)
        except Exception as error:  # exporters raise many types
            print(f"{name}.onnx: not exported: {type(error).__name__}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
