#!/usr/bin/env bash
# onnx 1.23.2: onnx.utils.Extractor leaves out what the branches of an If read from outside.
#
# Expected: extract_model(inputs, outputs) keeps all nodes and weights that the outputs depend on. A branch may read any
# tensor of the graph around it (capture); exporters write that for every branch, since an If has no other inputs.
#
# Happens: only the inputs of the nodes themselves are followed. The node before the If and the weights that its branches
# read are gone, even if the whole model is extracted from its own inputs to its own outputs. The call succeeds, since it
# checks nothing when it is given a model; onnx.utils.extract_model for files stops at its own checker:
#
#   before  Conv If, weights ['w', 'scale']
#   after   If, weights []
#   checker: Nodes in a graph must be topologically sorted, however input 'hidden' of node
#
# Make the captured tensors inputs of the extraction by hand, or write If out first where its condition is constant.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4,8,8] x, bool flag) => (float[1,4,8,8] y) {
    hidden = Conv (x, w)
    y = If (flag) <
        then_branch = t () => (float[1,4,8,8] a) { a = Mul (hidden, scale) },
        else_branch = e () => (float[1,4,8,8] b) { b = Neg (hidden) }
    >
}"""
model = onnx.parser.parse_model(MODEL)
for name, array in {"w": np.ones((4, 4, 1, 1)), "scale": np.array(2)}.items():
    model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
onnx.checker.check_model(model, full_check=True)
feeds = {"x": np.ones((1, 4, 8, 8), np.float32), "flag": np.array(True)}
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert (session.run(None, feeds)[0] == 8).all()


def look(when, graph):
    operators, weights = [node.op_type for node in graph.node], [tensor.name for tensor in graph.initializer]
    print(f"{when:6}  {' '.join(operators)}, weights {weights}")
    return operators, weights


assert look("before", model.graph) == (["Conv", "If"], ["w", "scale"])
extracted = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(["x", "flag"], ["y"])
after = look("after", extracted.graph)
try:
    onnx.checker.check_model(extracted)
    message = "passes"
except onnx.checker.ValidationError as error:
    message = str(error).splitlines()[0]
print("checker:", message)
assert after == (["If"], []) and "input 'hidden' of node" in message
PYTHON
