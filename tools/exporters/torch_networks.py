"""Write small networks through PyTorch's exporters: ``python torch_networks.py FOLDER KIND``.

KIND: ``plain``, ``timm``, ``transformers`` or ``ultralytics``. Every network is written by the exporter of today
(dynamo); a few also by the older one, under the name ``NAME.traced.onnx``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectrum import falling, image_batch

SIZE = 64
Networks = Iterator[tuple[str, nn.Module, bool]]  # name, module, whether the older exporter writes it too

TIMM = {  # of the names of timm, each in its smallest size; those that the older exporter writes too
    "mobilenetv4_conv_small_035": True,
    "tf_efficientnetv2_b0": False,  # SAME padding
    "convnextv2_atto": True,
    "repvit_m0_9": False,
    "fastvit_t8": False,
    "ghostnet_050": False,
    "resnext26ts": False,
    "regnety_002": False,
    "test_nfnet": True,  # weight standardization
    "edgenext_xx_small": False,
}


class Plain(nn.Module):
    """What a tutorial builds: convolutions, also a transposed one, BatchNormalization, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(32, 64, 3, 2, padding=1), nn.BatchNorm2d(64), nn.SiLU(), nn.ConvTranspose2d(64, 32, 2, 2)
        )
        self.last = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.scores = nn.Linear(64 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, shape (N, 10)."""
        x = self.first(x)
        scores: Tensor = self.scores(self.last(x + self.branch(x)))
        return scores


def plain() -> Networks:
    """Build the network of a tutorial."""
    yield "plain", Plain(), True


def of_timm() -> Networks:
    """Build networks of timm, with 10 classes."""
    import timm  # noqa: PLC0415

    for name, older in TIMM.items():
        yield name, timm.create_model(name, num_classes=10, exportable=True), older


def of_transformers() -> Networks:
    """Build vision networks of transformers from small configurations."""
    import transformers as t  # noqa: PLC0415

    sizes = {"image_size": SIZE, "num_labels": 10}
    thin = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 256}
    configurations: dict[str, tuple[Any, Any]] = {
        "resnet": (
            t.ResNetForImageClassification,
            t.ResNetConfig(embedding_size=32, hidden_sizes=[64, 128, 128], depths=[1, 1, 1], num_labels=10),
        ),
        "vit": (t.ViTForImageClassification, t.ViTConfig(patch_size=8, **thin, **sizes)),
        "dinov2": (t.Dinov2ForImageClassification, t.Dinov2Config(patch_size=8, **thin, **sizes)),
        "segformer": (
            t.SegformerForSemanticSegmentation,
            t.SegformerConfig(
                hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], decoder_hidden_size=64, num_labels=5
            ),
        ),
        "swinv2": (
            t.Swinv2ForImageClassification,
            t.Swinv2Config(patch_size=4, embed_dim=48, depths=[1, 1], num_heads=[3, 6], window_size=4, **sizes),
        ),
        "mobilenetv2": (t.MobileNetV2ForImageClassification, t.MobileNetV2Config(depth_multiplier=0.5, **sizes)),
        "mobilevitv2": (t.MobileViTV2ForImageClassification, t.MobileViTV2Config(width_multiplier=0.5, **sizes)),
        "convnextv2": (
            t.ConvNextV2ForImageClassification,
            t.ConvNextV2Config(hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], **sizes),
        ),
    }
    for name, (kind, configuration) in configurations.items():
        yield name, _Scores(kind(configuration)), False


class _Scores(nn.Module):
    """A network of transformers that takes and returns tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        scores: Tensor = self.network(pixel_values=pixel_values).logits
        return scores


def with_falling_spectra(module: nn.Module) -> nn.Module:
    """Give a module weights as trained ones are, and statistics of BatchNormalization that fit them."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.from_numpy(falling(generator, tuple(parameter.shape))))
        module.train()
        for _ in range(10):
            module(batch())
    return module.eval()


def batch(count: int = 8) -> Tensor:
    """Return images, shape (count, 3, 64, 64)."""
    return torch.from_numpy(image_batch(np.random.default_rng(1), (count, 3, SIZE, SIZE)))


def write(module: nn.Module, file: Path, *, dynamo: bool) -> None:
    """Export a module with an open batch axis."""
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["scores"], "dynamo": dynamo}
    if dynamo:
        names["dynamic_shapes"] = ({0: torch.export.Dim.DYNAMIC},)
    else:
        names["dynamic_axes"] = {"images": {0: "N"}, "scores": {0: "N"}}
    torch.onnx.export(module, (batch(2),), file, **names)


def ultralytics(folder: Path) -> None:
    """Write YOLO networks by the exporter of ultralytics, as its users do."""
    import ultralytics as u  # noqa: PLC0415

    for name in ("yolo11n", "yolo26n", "yolo11n-seg"):
        network = u.YOLO(f"{name}.yaml")
        with_falling_spectra(network.model)
        written = Path(network.export(format="onnx", imgsz=SIZE, device="cpu"))
        written.replace(folder / f"{name}.onnx")


def main(folder: Path, kind: str) -> None:
    """Write the networks of a kind into a folder; what an exporter refuses is printed."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)  # of what stays as it is drawn, such as biases
    if kind == "ultralytics":
        ultralytics(folder)
        return
    kinds: dict[str, Callable[[], Networks]] = {"plain": plain, "timm": of_timm, "transformers": of_transformers}
    for name, module, older in kinds[kind]():
        with_falling_spectra(module)
        for suffix, dynamo in ((".onnx", True), (".traced.onnx", False)):
            if dynamo or older:
                try:
                    write(module, folder / f"{name}{suffix}", dynamo=dynamo)
                except Exception as error:  # exporters raise many types
                    print(f"{name}{suffix}: not exported: {type(error).__name__}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
