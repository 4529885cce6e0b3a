"""Train the demo model: a small VGG with BatchNormalization that reads handwritten digits.

Usage (needs the extras ``torch``, ``cpu`` and ``demo``; some ten minutes on one CPU thread)::

    python tools/train_demo_model.py models/demo_mnist_vgg.onnx

It trains on 4,000 MNIST digits, exports to ONNX with the BatchNormalization nodes left in, and prints the
accuracy of the written file on 1,000 other digits, run by onnxruntime, and the file's sha256. The seed fixes
weights, batches and augmentation, yet another processor or PyTorch release rounds differently: expect the
same accuracy to a few digits in a thousand, not the same hash.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import OrderedDict
from math import pi
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from demo_data import Digits, load_digits, split_digits

STAGES = ((48, 48), (96, 96), (128, 128, 128), (128, 128))
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
MAX_TURN_RADIANS = pi / 15
MAX_ZOOM = 0.1
MAX_SHIFT = 0.15  # half widths of the image: about two pixels


def build_network() -> nn.Sequential:
    """Stages of 3 x 3 convolutions with BatchNormalization and ReLU, each stage ended by a 2 x 2 max pool."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 1
    for stage, widths in enumerate(STAGES, start=1):
        for index, width in enumerate(widths, start=1):
            modules[f"conv{stage}_{index}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            modules[f"norm{stage}_{index}"] = nn.BatchNorm2d(width)
            modules[f"relu{stage}_{index}"] = nn.ReLU()
            channels = width
        modules[f"pool{stage}"] = nn.MaxPool2d(2)
    modules["flatten"] = nn.Flatten()
    modules["classifier"] = nn.Linear(channels, 10)
    return nn.Sequential(modules)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift each image at random; shape (n, 1, 28, 28) in and out."""
    count = len(images)
    turn, zoom, shift_x, shift_y = torch.rand((4, count), generator=generator) * 2 - 1
    angle, scale = turn * MAX_TURN_RADIANS, 1 + zoom * MAX_ZOOM
    cosine, sine = scale * torch.cos(angle), scale * torch.sin(angle)
    first_row = torch.stack([cosine, -sine, shift_x * MAX_SHIFT], dim=1)
    second_row = torch.stack([sine, cosine, shift_y * MAX_SHIFT], dim=1)
    grid = nn.functional.affine_grid(
        torch.stack([first_row, second_row], dim=1), list(images.shape), align_corners=False
    )
    return nn.functional.grid_sample(images, grid, align_corners=False)


def train(network: nn.Sequential, digits: Digits, epochs: int, generator: torch.Generator) -> None:
    """Fit the network in place by AdamW on cross entropy, under a one-cycle learning rate."""
    images, labels = torch.from_numpy(digits.inputs), torch.from_numpy(digits.labels)
    steps_per_epoch = len(images) // BATCH_SIZE
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, epochs * steps_per_epoch)
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: steps_per_epoch * BATCH_SIZE].split(BATCH_SIZE):
            loss = loss_function(network(augment(images[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch}/{epochs}: loss {total / steps_per_epoch:.4f}", flush=True)


def export(network: nn.Sequential, path: Path) -> None:
    """Write the network as ONNX, batch axis open; BatchNormalization stays unfolded."""
    network.eval()
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 28, 28),),
        path,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        # Mode EVAL would fold BatchNormalization into the convolutions; the network is in eval mode already.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )


def accuracy(path: Path, digits: Digits) -> float:
    """Return the share of digits that the written model classifies correctly, 0 to 1."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": digits.inputs})
    return float(np.mean(np.argmax(logits, axis=1) == digits.labels))


def main() -> None:
    """Train the network, export it and measure its accuracy."""
    parser = argparse.ArgumentParser(description="Train the demo model on MNIST digits and write it as ONNX.")
    parser.add_argument("output", type=Path, help="the .onnx file to write")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the 4,000 training digits")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and augmentation")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    train_digits, held_out = split_digits(load_digits())
    network = build_network()
    train(network, train_digits, arguments.epochs, torch.Generator().manual_seed(arguments.seed))
    export(network, arguments.output)
    print(f"held-out accuracy {accuracy(arguments.output, held_out):.4f} on {len(held_out.labels)} digits")
    print(f"sha256 {hashlib.sha256(arguments.output.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
