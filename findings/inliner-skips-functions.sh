#!/usr/bin/env bash
# onnx 1.23.2: the inliner leaves functions alone whose import list names their own domain by another number.
#
# Expected: inline_local_functions(model) writes out every function that is in the file. The version of a domain that is
# not the standard's says nothing then, so a function that imports its own domain in another version than the model does
# is no obstacle; the checker accepts it, and onnxruntime runs it.
#
# Happens: inline_local_functions skips such a function in silence, with convert_version=True too, and
# inline_selected_functions refuses, though the one function has the model's opset:
#
#   versions of "own"   inlined  nodes left
#   model 1, function 1 True     ['Relu', 'Neg']
#   model 1, function 2 False    ['block']
#   inline_selected_functions: RuntimeError: Model has functions with incompatible opset versions.
#
# jax2onnx 0.17.1 exports its `onnx_function`s that way (1 in the model, the standard's opset in the function). Set the
# versions in `function.opset_import` to those of the model before inlining.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort


def with_function(version):
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[2] x) => (float[2] y) {{ y = own.block (x) }}
    <domain: "own", opset_import: ["" : 17, "own" : {version}]> block (a) => (b) {{ c = Relu (a)  b = Neg (c) }}""")
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([-1, 2], np.float32)})[0].tolist() == [0, -2]
    return model


print('versions of "own"   inlined  nodes left')
for version, wanted in {1: ["Relu", "Neg"], 2: ["block"]}.items():
    for convert in (False, True):
        inlined = onnx.inliner.inline_local_functions(with_function(version), convert_version=convert)
        nodes = [node.op_type for node in inlined.graph.node]
        assert nodes == wanted
    print(f"model 1, function {version} {not inlined.functions!s:8} {nodes}")
try:
    onnx.inliner.inline_selected_functions(with_function(2), [("own", "block")])
    message = "inlined"
except RuntimeError as error:
    message = f"{type(error).__name__}: {error}"
print("inline_selected_functions:", message)
assert "incompatible opset versions" in message
PYTHON
