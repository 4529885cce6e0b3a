#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU provider: a Dropout in training mode drops nothing, unless somebody looks at its mask.
#
# Expected: the ONNX operator draws in training mode, so half of the numbers are 0 and the others doubled, other ones in
# every run. Monte Carlo dropout, which estimates uncertainty from many runs, is exported that way.
#
# Happens: at the default optimization level the node is taken out although `training_mode` is true, so all runs are
# alike. It draws with optimizations off, and as soon as its mask is an output of the graph, which changes a result that
# the mask plays no part in:
#
#   ORT_ENABLE_ALL                    0 zeros, runs alike: True
#   ORT_ENABLE_ALL, mask an output    about half zeros, runs alike: False
#   ORT_DISABLE_ALL                   about half zeros, runs alike: False
#
# So a network that is cut in two, or given further outputs to look at, may compute something else than the whole one.
# Multiply by a RandomUniformLike that is compared with the ratio where draws are wanted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,1000] x) => (float[1,1000] y) {
    a = Neg(x)
    d, mask = Dropout(a, half, training)
    y = Neg(d)
}"""
model = onnx.parser.parse_model(MODEL)
for name, value in {"half": np.float32(0.5), "training": np.bool_(True)}.items():
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
onnx.checker.check_model(model, full_check=True)
x = {"x": np.ones((1, 1000), np.float32)}


def seen(model, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    first, second = (session.run(["y"], x)[0] for _ in range(2))
    return int((first == 0).sum()), bool((first == second).all())


default, plain = seen(model, "ORT_ENABLE_ALL"), seen(model, "ORT_DISABLE_ALL")
model.graph.output.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.BOOL, [1, 1000]))
with_mask = seen(model, "ORT_ENABLE_ALL")
print("ORT_ENABLE_ALL                ", default)
print("ORT_ENABLE_ALL, mask an output", with_mask)
print("ORT_DISABLE_ALL               ", plain)
assert default == (0, True)
for zeros, alike in (with_mask, plain):
    assert 350 < zeros < 650 and not alike
PYTHON
