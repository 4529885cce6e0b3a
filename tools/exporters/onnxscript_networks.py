"""Write a small network by onnxscript, with functions of its own: ``python onnxscript_networks.py FOLDER``."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,valid-type,name-defined"
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxscript import FLOAT, script
from onnxscript import opset21 as op
from onnxscript.values import Opset

from spectrum import falling

SIZE = 64
N = "N"  # the batch, which stays open
own = Opset("networks", 1)


@script(own, default_opset=op)
def activation(x, slope: float):  # noqa: D103
    return op.LeakyRelu(x, alpha=slope)


@script(own, default_opset=op)
def block(x, w, b):  # noqa: D103
    y = op.Conv(x, w, b, pads=[1, 1, 1, 1])
    return activation(y, slope=0.1)


@script(default_opset=op)
def network(images: FLOAT[N, 3, SIZE, SIZE], w1, b1, w2, b2, w3, b3) -> FLOAT[N, 10]:  # noqa: D103
    x = block(images, w1, b1)
    x = op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
    x = block(x, w2, b2)
    x = op.ReduceMean(x, op.Constant(value_ints=[2, 3]), keepdims=0)
    return op.Gemm(x, w3, b3)


def main(folder: Path) -> None:
    """Write the network into a folder."""
    generator = np.random.default_rng(0)
    weights = {
        "w1": falling(generator, (32, 3, 3, 3)),
        "w2": falling(generator, (64, 32, 3, 3)),
        "w3": falling(generator, (64, 10), filters_last=True),
        **{name: np.zeros(size, np.float32) for name, size in {"b1": 32, "b2": 64, "b3": 10}.items()},
    }
    model = network.to_model_proto()
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, folder / "functions.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
