#!/usr/bin/env bash
# onnx-graphsurgeon 0.6.1: an unchanged round trip copies weights that the branches of an If share.
#
# Expected: export_onnx(import_onnx(model)) of a model that nothing was changed in has each weight once. A weight of the
# main graph that both branches of an If read (capture) stays in the main graph.
#
# Happens: the weight leaves the main graph, and a full copy of it goes into every branch that reads it. The model is still
# valid and computes the same, but what two branches share takes twice the space, in the file and in memory:
#
#   before  147,799 bytes, main graph ['w'], branches [[], []]
#   after   295,347 bytes, main graph [], branches [['w'], ['w']]
#
# A file of more than 1 GiB with shared weights may then pass the 2 GiB that protobuf allows. To change a model with
# control flow, edit its ModelProto, or build only the new nodes with graphsurgeon and copy these over.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnx-graphsurgeon==0.6.1 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,64,8,8] x, bool flag) => (float[1,64,8,8] y) {
    y = If (flag) <
        then_branch = t () => (float[1,64,8,8] a) { c = Conv <pads = [1,1,1,1]> (x, w)  a = Relu (c) },
        else_branch = e () => (float[1,64,8,8] b) { d = Conv <pads = [1,1,1,1]> (x, w)  b = Sigmoid (d) }
    >
}"""
model = onnx.parser.parse_model(MODEL)
weight = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
exported = gs.export_onnx(gs.import_onnx(model))


def names(graph):
    return [tensor.name for tensor in graph.initializer]


def run(model, flag):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((1, 64, 8, 8), np.float32), "flag": np.array(flag)})[0]


def look(when, model):
    onnx.checker.check_model(model, full_check=True)
    branches = [names(attribute.g) for attribute in model.graph.node[0].attribute]
    print(f"{when:6}  {model.ByteSize():,} bytes, main graph {names(model.graph)}, branches {branches}")
    return names(model.graph), branches


assert look("before", model) == (["w"], [[], []])
assert look("after", exported) == ([], [["w"], ["w"]])
assert exported.ByteSize() > model.ByteSize() + 0.9 * weight.nbytes
assert all(np.allclose(run(model, flag), run(exported, flag), atol=1e-4) for flag in (True, False))
PYTHON
