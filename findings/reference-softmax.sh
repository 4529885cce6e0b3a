#!/usr/bin/env bash
# onnx 1.23.2: its ReferenceEvaluator computes the Softmax of opset 12 as that of opset 13.
#
# Expected: the reference implementation of the standard follows the opset that the model imports. Until opset 12 Softmax
# flattens its input to a matrix at `axis` (1 unless given), so the numbers of a whole sample sum to 1; since opset 13 it
# works along one axis.
#
# Happens: models of both opsets give the same numbers, those of opset 13, and so do LogSoftmax and Hardmax. onnxruntime
# follows the opset:
#
#                        sum over channels, over a sample
#   opset 12 reference   1.0  64.0
#   opset 12 onnxruntime 0.0156  1.0
#   opset 13 reference   1.0  64.0
#   opset 13 onnxruntime 1.0  64.0
#
# So the evaluator is no oracle for old models: a converter that is tested against it passes with wrong numbers. Convert
# the model to opset 13 first (onnx.version_converter writes the flattening out), or compare with onnxruntime.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

x = {"x": np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}
ENGINES = {
    "reference": lambda model: ReferenceEvaluator(model).run(None, x)[0],
    "onnxruntime": lambda model: ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, x)[0],
}
sums = {}
for opset in (12, 13):
    model = onnx.parser.parse_model(f"""<ir_version: 7, opset_import: ["" : {opset}]>
    g (float[1,4,8,8] x) => (float[1,4,8,8] y) {{ y = Softmax <axis = 1> (x) }}""")
    onnx.checker.check_model(model, full_check=True)
    for engine, run in ENGINES.items():
        y = run(model)
        sums[opset, engine] = float(y.sum(1).mean()), float(y.sum())
        print(f"opset {opset} {engine:11}", *(f"{value:.3g} " for value in sums[opset, engine]))
assert np.allclose(sums[12, "onnxruntime"], (1 / 64, 1), rtol=1e-3)
for case in ((12, "reference"), (13, "reference"), (13, "onnxruntime")):
    assert np.allclose(sums[case], (1, 64), rtol=1e-3)
PYTHON
