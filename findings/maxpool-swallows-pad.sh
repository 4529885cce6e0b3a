#!/usr/bin/env bash
# onnxoptimizer 0.4.2: its default passes put a Pad with zeros into the MaxPool behind it, which pads with minus infinity.
#
# Expected: optimize(model) changes nothing that the model computes. Pad and MaxPool stay two nodes, since zeros win over
# the negative numbers beside them and the operator's own padding never does.
#
# Happens: one MaxPool with pads is left, and where a window on the border holds only negative numbers, the largest of
# them comes out instead of 0. No option asks for it and nothing is said; with an AveragePool behind it, Pad stays:
#
#   before  Pad MaxPool      [[0.0, 0.0], [0.0, -1.0]]
#   after   MaxPool          [[-1.0, -1.0], [-1.0, -1.0]]
#
# Exporters write a Pad with zeros before a pool for Keras's ZeroPadding2D and the like (ResNet of keras.applications).
# Behind a ReLU there is no difference, which hides it. Leave `fuse_pad_into_pool` out of the passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxoptimizer==0.4.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxoptimizer
import onnxruntime as ort

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,1,3,3] x) => (float[1,1,2,2] y) <int64[8] pads = {0, 0, 1, 1, 0, 0, 0, 0}> {
    padded = Pad (x, pads)
    y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (padded)
}"""
model = onnx.parser.parse_model(MODEL)
onnx.checker.check_model(model, full_check=True)
x = {"x": np.full((1, 1, 3, 3), -1, np.float32)}


def look(when, model):
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    operators, y = [node.op_type for node in model.graph.node], session.run(None, x)[0][0, 0].tolist()
    print(f"{when:7} {' '.join(operators):16} {y}")
    return operators, y


assert look("before", model) == (["Pad", "MaxPool"], [[0.0, 0.0], [0.0, -1.0]])
assert look("after", onnxoptimizer.optimize(model)) == (["MaxPool"], [[-1.0, -1.0], [-1.0, -1.0]])
passes = [name for name in onnxoptimizer.get_fuse_and_elimination_passes() if name != "fuse_pad_into_pool"]
assert look("without", onnxoptimizer.optimize(model, passes))[1] == [[0.0, 0.0], [0.0, -1.0]]
PYTHON
