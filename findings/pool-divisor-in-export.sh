#!/usr/bin/env bash
# torch 2.14.1, onnxscript 0.7.2: torch.onnx.export drops `divisor_override` of AvgPool2d, in both exporters.
#
# Expected: what ONNX's AveragePool cannot say is written as further nodes (a Mul behind the pool), or refused, as the
# exporters do with other arguments that have no counterpart.
#
# Happens: a plain AveragePool is written, without an error or a warning, and every number is off by the same factor:
#
#   torch        36.0
#   dynamo       AveragePool, 4.0
#   older        AveragePool, 4.0
#
# `divisor_override=1` is a way to write the sum over a window. Use AvgPool2d without it, and multiply by the number of
# values in a window / divisor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.14.1 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import warnings

import onnx
import onnxruntime as ort
import torch

pool, x = torch.nn.AvgPool2d(3, divisor_override=1), torch.full((1, 1, 3, 3), 4.0)
wanted = pool(x).item()
print("torch       ", wanted)
assert wanted == 36
for name, dynamo in {"dynamo": True, "older": False}.items():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.onnx.export(pool, (x,), "pool.onnx", dynamo=dynamo, verbose=False)
    operators = [node.op_type for node in onnx.load("pool.onnx").graph.node]
    session = ort.InferenceSession("pool.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].item()
    print(f"{name:12} {' '.join(operators)}, {found}")
    assert operators == ["AveragePool"] and found == 4
    assert not any("divisor" in str(each.message) for each in said)
PYTHON
