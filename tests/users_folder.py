"""A folder as users have it: a model, and images of digits in one subfolder per class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from demo_data import load_digits, split_digits

ROOT = Path(__file__).parents[1]


def fill_folder(folder: Path, step: int) -> Path:
    """Write model.onnx and images/ with every ``step``-th training digit into the folder, and return it."""
    (folder / "model.onnx").write_bytes((ROOT / "models/demo_mnist_vgg.onnx").read_bytes())
    train, _ = split_digits(load_digits())
    for number in range(0, len(train.labels), step):
        class_folder = folder / "images" / str(train.labels[number])
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[number]).save(class_folder / f"{number}.png")
    return folder
