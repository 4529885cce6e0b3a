#!/usr/bin/env bash
# onnxruntime 1.30.0 with the plugin provider of onnxruntime-ggml 0.2.0: a session names the plugin first, and runs all on
# the CPU.
#
# Expected: `get_providers()` of a session says what the network runs on; a plugin that takes none of its nodes is not in
# there.
#
# Happens: this plugin takes a graph whole or not at all. One MaxPool is enough for it to take none of the two MatMul, and
# the session still says
#
#   get_providers()                       ['ggml', 'CPUExecutionProvider']
#   nodes by provider, with the MaxPool   {'CPUExecutionProvider': 3}
#   nodes by provider, without it         {'ggml': 2}
#
# onnxruntime itself says nothing (this plugin logs a warning), and what is timed is the CPU provider. Who benchmarks a
# plugin should ask `get_provider_graph_assignment_info()` (from 1.24 on), which needs the session's configuration entry
# session.record_ep_graph_assignment_info.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.30.0 onnxruntime-ggml==0.2.0 numpy==2.4.6
ORT_GGML_LOG=off "$folder/venv/bin/python" - <<'PYTHON'
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_ggml

ort.register_execution_provider_library("ggml", onnxruntime_ggml.library_path())
device = next(each for each in ort.get_ep_devices() if each.ep_name == "ggml")
weight = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")


def session(text):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.append(weight)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_provider_for_devices([device], {})
    return ort.InferenceSession(model.SerializeToString(), options)


def nodes(session):
    found = Counter()
    for part in session.get_provider_graph_assignment_info():
        found[part.ep_name] += len(part.get_nodes())
    return dict(found)


pooled = session("""g (float[1,4,8] x) => (float[1,4,8] y) {
    a = MatMul(x, w)  b = MaxPool<kernel_shape=[3], pads=[1,1]>(a)  y = MatMul(b, w) }""")
plain = session("g (float[1,4,8] x) => (float[1,4,8] y) { a = MatMul(x, w)  y = MatMul(a, w) }")
print("get_providers()                      ", pooled.get_providers())
print("nodes by provider, with the MaxPool  ", nodes(pooled))
print("nodes by provider, without it        ", nodes(plain))
assert pooled.get_providers() == plain.get_providers() == ["ggml", "CPUExecutionProvider"]
assert nodes(pooled) == {"CPUExecutionProvider": 3}
assert nodes(plain) == {"ggml": 2}
PYTHON
