#!/usr/bin/env bash
# OpenVINO 2026.4.1: some reductions of opset 13 to 17 run over all axes, whatever their `axes` say.
#
# Expected: ReduceL1 over axis 1 of [1,4,8,8] has the shape [1,1,8,8], in every opset, as ReduceL2 and ReduceMean do.
#
# Happens: ReduceL1, ReduceLogSum and ReduceLogSumExp do not look at the attribute `axes` in the opsets 13 to 17, where it
# still is one (only ReduceSum takes an input since 13), and reduce everything to [1,1,1,1]. No error and no warning; the
# shape that the model gives for its output is overruled:
#
#                    opset 12      opset 13      opset 17      opset 18
#   ReduceL1         [1,1,8,8]     [1,1,1,1]     [1,1,1,1]     [1,1,8,8]
#   ReduceL2         [1,1,8,8]     [1,1,8,8]     [1,1,8,8]     [1,1,8,8]
#   ReduceLogSum     [1,1,8,8]     [1,1,1,1]     [1,1,1,1]     [1,1,8,8]
#   ReduceLogSumExp  [1,1,8,8]     [1,1,1,1]     [1,1,1,1]     [1,1,8,8]
#
# Followed by a division, as in L1 normalization, the result broadcasts and only the numbers are wrong. Convert such models
# to opset 18 (onnx.version_converter) before they go to OpenVINO.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
import openvino

OPSETS = (12, 13, 17, 18)
x = np.random.default_rng(0).random((1, 4, 8, 8), np.float32) + 1


def seen(operator, opset):
    reduction = f"{operator} <axes = [1]> (x)" if opset < 18 else f"{operator} (x, one)"
    stored = "" if opset < 18 else "<int64[1] one = {1}>"
    model = onnx.parser.parse_model(f"""<ir_version: 7, opset_import: ["" : {opset}]>
    g (float[1,4,8,8] x) => (float[1,1,8,8] y) {stored} {{ y = {reduction} }}""")
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": x})[0].shape == (1, 1, 8, 8)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString(), b""), "CPU")
    return list(compiled({"x": x})[0].shape)


print(" " * 16, *(f"opset {opset:<8}" for opset in OPSETS))
for operator in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
    shapes = [seen(operator, opset) for opset in OPSETS]
    print(f"{operator:16}", *(f"{str(shape).replace(' ', ''):14}" for shape in shapes))
    right, wrong = [1, 1, 8, 8], [1, 1, 1, 1]
    assert shapes == ([right] * 4 if operator == "ReduceL2" else [right, wrong, wrong, right])
PYTHON
