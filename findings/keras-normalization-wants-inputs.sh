#!/usr/bin/env bash
# Keras 3.15.1 with tensorflow 2.21.0 and tf2onnx 1.17.0: mean and variance of a Normalization become inputs of the model.
#
# Expected: the layer that brings pixels to mean 0 and variance 1 is part of the exported network, its numbers are
# constants like all other weights, and the ONNX model has the one input that the Keras model has. keras.applications'
# EfficientNet begins with this layer.
#
# Happens: the export ends without a word, and the model has three inputs. Two of them, named after inner nodes, want the
# numbers that were given to the layer, and nothing in the file says which those were:
#
#   Keras   inputs ['images']
#   ONNX    inputs ['images', 'functional_1/normalization_1/Sub/y:0', 'functional_1/normalization_1/Sqrt/x:0']
#   fed with images alone: ValueError: Required inputs ([...]) are missing from input feed (['images']).
#
# A Rescaling layer, whose numbers are Python's, is exported well: Rescaling(1 / deviation, -mean / deviation).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 tensorflow-cpu==2.21.0 \
    tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import contextlib
import io

import keras
import numpy as np
import onnxruntime as ort


def exported(layer):
    images = keras.Input((8, 8, 3), name="images")
    model = keras.Model(images, layer(images))
    model(x["images"])  # wanted before an export
    with contextlib.redirect_stdout(io.StringIO()):
        model.export("model.onnx", format="onnx", verbose=False)
    session = ort.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return [tensor.name for tensor in model.inputs], session


x = {"images": np.ones((1, 8, 8, 3), np.float32)}
names, session = exported(keras.layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.04, 0.04, 0.04]))
found = [value.name for value in session.get_inputs()]
print("Keras   inputs", names)
print("ONNX    inputs", found)
try:
    session.run(None, x)
    message = "runs"
except ValueError as error:
    message = f"{type(error).__name__}: {error}"
print("fed with images alone:", message)
assert len(names) == 1 and len(found) == 3 and "Required inputs" in message

_, session = exported(keras.layers.Rescaling([5.0, 5.0, 5.0], [-2.5, -2.0, -1.5]))
assert len(session.get_inputs()) == 1 and np.allclose(session.run(None, x)[0][0, 0, 0], [2.5, 3, 3.5])
PYTHON
