#!/usr/bin/env bash
# onnx 1.23.2: version_converter.convert_version drops a model's functions, and the checker accepts what is left.
#
# Expected: a model with a function of its own (as exporters write for a module of the network) is converted together with
# its functions, or refused.
#
# Happens: the nodes that call the function stay, the function is gone, and no warning is given.
# onnx.checker.check_model(full_check=True) takes the result, as it takes nodes of any domain that it does not know. The
# first to complain is the runtime, when the model is loaded:
#
#   before  opset 17, functions ['block'], calls ['block'], runs
#   after   opset 18, functions [], calls ['block'], checker: passes, onnxruntime: Fail: ... own:block(-1) is not a
#           registered function/op
#
# Write functions out first (onnx.inliner.inline_local_functions), then convert: that works, and is checked below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnxruntime as ort

MODEL = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2,2] x) => (float[2,2] y) { y = own.block (x) }
<domain: "own", opset_import: ["" : 17]> block (a) => (b) { c = Relu (a)  b = Add (c, a) }"""
x = np.array([[-1, 2], [3, -4]], np.float32)


def run(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def parts(model):
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    return opset, [function.name for function in model.functions], [node.op_type for node in model.graph.node]


model = onnx.parser.parse_model(MODEL)
onnx.checker.check_model(model, full_check=True)
expected = run(model)
print("before  opset {}, functions {}, calls {}, runs".format(*parts(model)))
assert parts(model) == (17, ["block"], ["block"])

converted = onnx.version_converter.convert_version(model, 18)
onnx.checker.check_model(converted, full_check=True)
try:
    run(converted)
    message = "runs"
except Exception as error:
    message = f"{type(error).__name__}: {error}"
print("after   opset {}, functions {}, calls {}, checker: passes,".format(*parts(converted)), "onnxruntime:", message)
assert parts(converted) == (18, [], ["block"])
assert "own:block" in message and "not a registered function" in message

inlined = onnx.version_converter.convert_version(onnx.inliner.inline_local_functions(model), 18)
print("inlined opset {}, functions {}, nodes {}".format(*parts(inlined)))
assert np.array_equal(run(inlined), expected)
PYTHON
