#!/usr/bin/env bash
# torch 2.14.1, onnxscript 0.7.2: the exporter writes scatter_reduce with "mean" as one that keeps the last value.
#
# Expected: ONNX's ScatterElements knows no mean, so the exporter refuses it, as the older one does ("ONNX does not support
# mean reduction for scatter_reduce"), or writes a sum and a count.
#
# Happens: the node is written with reduction "none". Which of the values that meet in one place remains is not even
# defined; onnxruntime takes the last. Nothing is said, also not for include_self=False:
#
#   torch        tensor([[3.]])
#   dynamo       ScatterElements(reduction='none') [[6.0]]
#   older        OnnxExporterError: ONNX does not support mean reduction for scatter_reduce
#
# Graph and point cloud networks average over neighbours this way. Divide a scatter_add of the values by one of ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.14.1 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON' | sed '/^Torch IR graph/,/^$/d'
import warnings

import onnx
import onnxruntime as ort
import torch

warnings.simplefilter("ignore")


class Mean(torch.nn.Module):
    def forward(self, x):
        everywhere = torch.zeros_like(x, dtype=torch.long)
        return torch.zeros(1, 1).scatter_reduce(1, everywhere, x, "mean", include_self=False)


x = torch.tensor([[1.0, 2.0, 6.0]])
print("torch       ", Mean()(x))
torch.onnx.export(Mean(), (x,), "mean.onnx", dynamo=True, verbose=False)
node = onnx.load("mean.onnx").graph.node[-1]  # the one before it takes the zeros out (include_self=False)
reduction = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}["reduction"].decode()
session = ort.InferenceSession("mean.onnx", providers=["CPUExecutionProvider"])
found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].tolist()
print(f"dynamo       {node.op_type}({reduction=})", found)
try:
    torch.onnx.export(Mean(), (x,), "older.onnx", dynamo=False)
    message = "exported"
except Exception as error:
    message = f"{type(error).__name__}: {error}"
print("older       ", message)
assert Mean()(x).item() == 3
assert reduction == "none" and found == [[6.0]]
assert "does not support mean reduction" in message
PYTHON
