"""What a user has in a folder: a model, and images of digits in folders by class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from demo_data import load_digits, split_digits

ROOT = Path(__file__).parents[1]


def fill_folder(folder: Path, step: int) -> Path:
    """Put model.onnx and images/ there; of the training digits every ``step``-th."""
    (folder / "model.onnx").write_bytes((ROOT / "models/demo_mnist_vgg.onnx").read_bytes())
    train, _ = split_digits(load_digits())
    for number in range(0, len(train.labels), step):
        place = folder / "images" / str(train.labels[number])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[number]).save(place / f"{number}.png")
    return folder
