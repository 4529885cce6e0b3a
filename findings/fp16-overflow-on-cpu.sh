#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU provider on x86-64: an fp16 model hides its overflows.
#
# Expected: two fp16 convolutions that multiply by 1000 and by 0.001 turn 100 into infinity, because the value between
# them, 100,000, is beyond the largest fp16 number, 65,504. At the latest with all graph optimizations off.
#
# Happens: the session computes Conv, Relu, Conv in float32 and rounds to fp16 at the end, at every optimization level.
# Only when the tensor in the middle is made an output does it overflow, and then only in that output:
#
#   onnx's reference     [1.0, inf]
#   ORT_DISABLE_ALL      [1.0, 100.0625]
#   ORT_ENABLE_ALL       [1.0, 100.0625]
#   middle as an output  [1.0, 100.0625], the middle itself [1000.0, inf]
#
# So a test of an fp16 model on a CPU says nothing about its range on a GPU. Look at the largest absolute value of every
# inner tensor instead, in the float32 model.
set -euo pipefail
[ "$(uname -m)" = x86_64 ] || { echo "skipped: describes x86-64, other processors may have fp16 kernels"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float16[1,1,1,2] x) => (float16[1,1,1,2] y) {
    c = Conv(x, up)
    middle = Relu(c)
    y = Conv(middle, down)
}"""
model = onnx.parser.parse_model(MODEL)
for name, value in {"up": 1000, "down": 0.001}.items():
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float16), name))
onnx.checker.check_model(model, full_check=True)
x = {"x": np.array([[[[1, 100]]]], np.float16)}


def run(model, level="ORT_ENABLE_ALL"):
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return [array.ravel().tolist() for array in session.run(None, x)]


with np.errstate(over="ignore"):
    reference = ReferenceEvaluator(model).run(None, x)[0].ravel().tolist()
plain, optimized = run(model, "ORT_DISABLE_ALL"), run(model)
model.graph.output.append(onnx.helper.make_tensor_value_info("middle", onnx.TensorProto.FLOAT16, [1, 1, 1, 2]))
both = run(model)
print("onnx's reference    ", reference)
print("ORT_DISABLE_ALL     ", *plain)
print("ORT_ENABLE_ALL      ", *optimized)
print("middle as an output ", *both)
assert np.isinf(reference[1])
assert plain == optimized == [[1.0, 100.0625]]
assert both == [[1.0, 100.0625], [1000.0, float("inf")]]
PYTHON
