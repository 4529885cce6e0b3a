"""A labelled set of rendered shapes, and a small detector that was made by hand for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw

from tests.helpers import build, normal

SIDE = 64  # of the network's input
FILE_SIZE = (128, 96)  # of the images
STRIDES = (8, 16, 32)
COLOURS = {3: (220, 40, 40), 8: (40, 200, 60)}  # by category id: red squares, green discs


def draw_shapes(folder: Path, count: int = 12, seed: int = 0) -> None:
    """Draw images into a folder, with their ``annotations.json``."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        picture = Image.new("RGB", FILE_SIZE, (20, 20, 20))
        draw = ImageDraw.Draw(picture)
        for row, column in ((0, 0), (0, 2), (1, 1), (1, 3), (2, 0), (2, 2), (3, 1), (3, 3)):  # of cells of stride 16
            if generator.random() < 0.4:
                continue
            category = int(generator.choice(list(COLOURS)))
            width, height = int(generator.integers(30, 46)), int(generator.integers(22, 34))
            left = max(0, 32 * column + 16 - width // 2 + int(generator.integers(-3, 4)))
            top = max(0, 24 * row + 12 - height // 2 + int(generator.integers(-3, 4)))
            shape = draw.rectangle if category == 3 else draw.ellipse
            shape((left, top, left + width - 1, top + height - 1), COLOURS[category])
            box = [left, top, width, height]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            annotations.append({**entry, "area": width * height, "iscrowd": 0})
        # Without grain many cells would score the same, and their order would be anybody's.
        grain = generator.normal(0, 12, (FILE_SIZE[1], FILE_SIZE[0], 3))
        picture = Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))
        picture.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": FILE_SIZE[0], "height": FILE_SIZE[1]})
    categories = [{"id": each, "name": str(each)} for each in COLOURS]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(table))


def detector(noise: float = 0.0) -> onnx.ModelProto:
    """A head as YOLOv8 has it: how red and how green cells of three sizes are, each with a box of fixed size.

    Args:
        noise: standard deviation of what is added to the filters, which are between -1 and 1.
    """
    pools = "\n".join(
        f"""p{s} = AveragePool <kernel_shape = [{s}, {s}], strides = [{s}, {s}]> (colours)
        r{s} = Reshape (p{s}, rows)
        f{s} = Mul (r{s}, sure{s})"""
        for s in STRIDES
    )
    graph = f"""g (float[N, 3, {SIDE}, {SIDE}] images) => (float[N, 6, 84] output0) {{
        c = Conv <pads = [1, 1, 1, 1]> (images, w)
        colours = Clip (c, zero, one)
        {pools}
        scores = Concat <axis = 2> (f8, f16, f32)
        highest = ReduceMax <axes = [1], keepdims = 1> (scores)
        nothing = Mul (highest, zero)
        placed = Add (nothing, boxes)
        output0 = Concat <axis = 1> (placed, scores)
    }}"""
    filters = np.zeros((2, 3, 3, 3), np.float32)
    filters[0, :, 1, 1], filters[1, :, 1, 1] = (1, -1, -0.1), (-1, 1, -0.1)
    boxes = np.concatenate([_boxes(stride) for stride in STRIDES], axis=1)
    weights = {
        "w": filters + noise * normal(1, *filters.shape),
        "zero": np.float32(0),
        "one": np.float32(1),
        "rows": np.array([0, 2, -1]),
        **{f"sure{stride}": np.float32(0.9 if stride == 16 else 0.4) for stride in STRIDES},
        "boxes": boxes[None].astype(np.float32),
    }
    return build(graph, weights)


def deep_detector(channels: int = 16) -> onnx.ModelProto:
    """The same detector behind three convolutions that hand on the colours many times over, as good as unchanged."""
    copies = np.zeros((channels, 3, 3, 3), np.float32)
    copies[np.arange(channels), np.arange(channels) % 3, 1, 1] = 1
    same = 0.02 * normal(2, channels, channels, 3, 3)
    same[np.arange(channels), np.arange(channels), 1, 1] += 1
    means = copies[:, :, 1, 1].T / copies.sum(axis=(0, 2, 3))[:, None]
    front = build(
        f"""g (float[N, 3, {SIDE}, {SIDE}] pixels) => (float[N, 3, {SIDE}, {SIDE}] passed) {{
            c1 = Conv <pads = [1, 1, 1, 1]> (pixels, w1)
            r1 = Relu (c1)
            c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
            r2 = Relu (c2)
            passed = Conv (r2, w3)
        }}""",
        {"w1": copies, "w2": same.astype(np.float32), "w3": means[:, :, None, None].astype(np.float32)},
    )
    return onnx.compose.merge_models(front, detector(), [("passed", "images")])


def _boxes(stride: int) -> np.ndarray:
    """Centres and sizes of boxes, shape (4, cells): a little larger than the cells."""
    y, x = np.divmod(np.arange((SIDE // stride) ** 2), SIDE // stride)
    side = np.full(len(x), 1.25 * stride)
    return np.stack([(x + 0.5) * stride, (y + 0.5) * stride, side, side])
