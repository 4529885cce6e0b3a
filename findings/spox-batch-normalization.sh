#!/usr/bin/env bash
# spox 0.18.2: a BatchNormalization for inference cannot be built at all.
#
# Expected: batch_normalization(x, scale, bias, mean, variance) is the node that nearly every trained CNN has, with one output,
# since training_mode is 0 by default. spox checks every node with onnx's own inference of types as it is made, so that
# what it builds is right.
#
# Happens: its node always has the three outputs of training, and that inference refuses three where training_mode is 0. The
# one call in every example of a CNN fails; with training_mode=1 it passes, and computes something else:
#
#   training_mode=0  InferenceError: This number of op outputs should be 1 when Training_mode = False, but it is not.
#   training_mode=1  ['float32[2][3][4][4]', 'float32[3]', 'float32[3]']
#   scale and offset ['Mul', 'Add', 'Identity'] float32[2][3][4][4]
#
# Compute scale / sqrt(variance + epsilon) and the offset beforehand and write Mul and Add, which are the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check spox==0.18.2 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op

x = spox.argument(spox.Tensor(np.float32, (2, 3, 4, 4)))
statistics = [op.const(np.full(3, value, np.float32)) for value in (1, 0, 0, 1)]  # scale, bias, mean, variance
try:
    op.batch_normalization(x, *statistics)
except onnx.shape_inference.InferenceError as error:
    message = str(error).split("[ShapeInferenceError] ")[2].splitlines()[0]
else:
    message = "built"
print("training_mode=0 ", f"InferenceError: {message}")
made = [str(each.type) for each in op.batch_normalization(x, *statistics, training_mode=1)]
print("training_mode=1 ", made)
scale, offset = (op.const(np.full((3, 1, 1), value, np.float32)) for value in (1, 0))
y = op.add(op.mul(x, scale), offset)
model = spox.build({"x": x}, {"y": y})
operators = [node.op_type for node in model.graph.node if node.op_type != "Constant"]
print("scale and offset", operators, y.type)
assert message.startswith("This number of op outputs should be 1")
assert len(made) == 3
assert operators[:2] == ["Mul", "Add"]
PYTHON
