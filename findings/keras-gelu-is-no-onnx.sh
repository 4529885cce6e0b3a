#!/usr/bin/env bash
# Keras 3.15.1 with tensorflow 2.21.0 and tf2onnx 1.17.0: a network with GELU is exported to ONNX, but is none.
#
# Expected: `model.export("model.onnx", format="onnx")` writes what runtimes load, or raises for what it cannot express.
#
# Happens: operators of TensorFlow that tf2onnx does not know are written under their own names into ONNX's own domain,
# and the export ends as if all were well. It is not about exotic layers: the exact GELU becomes Erfc, CELU Expm1, and a
# convolution in groups the call of a function that is not in the file:
#
#   Activation("relu")    loads
#   Activation("gelu")    No Op registered for Erfc with domain_version of 15
#   Activation("celu")    No Op registered for Expm1 with domain_version of 15
#   Conv2D(4, groups=2)   No Op registered for StatefulPartitionedCall with domain_version of 15
#
# Load the file in a runtime right after the export. `keras.ops.gelu(x, approximate=True)` is exported well, and so is
# everything here with KERAS_BACKEND=torch.
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

LAYERS = {
    'Activation("relu")': (keras.layers.Activation("relu"), "loads"),
    'Activation("gelu")': (keras.layers.Activation("gelu"), "Erfc"),
    'Activation("celu")': (keras.layers.Activation("celu"), "Expm1"),
    "Conv2D(4, groups=2)": (keras.layers.Conv2D(4, 3, groups=2), "StatefulPartitionedCall"),
}


def seen(layer):
    images = keras.Input((8, 8, 4))
    model = keras.Model(images, layer(images))
    model(np.zeros((1, 8, 8, 4), np.float32))  # wanted before an export
    with contextlib.redirect_stdout(io.StringIO()):
        model.export("model.onnx", format="onnx", verbose=False)
    try:
        ort.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error).rpartition("Error ")[2]
    return "loads"


for name, (layer, wanted) in LAYERS.items():
    found = seen(layer)
    print(f"{name:21} {found}")
    assert found == wanted if wanted == "loads" else found.startswith(f"No Op registered for {wanted} ")
PYTHON
