#!/usr/bin/env bash
# NNCF 3.4.0 on ONNX: a normalization of several nodes becomes one that divides by zero.
#
# Expected: weights and inputs of convolutions are quantized, and what normalizes (mean, variance, square root, division)
# stays in float32, as it does for InstanceNormalization in one node; at worst an error of some percent.
#
# Happens: the divisor gets eight bits too, one scale for all channels, from zero on. A channel whose standard deviation is
# less than half a step is divided by 0, without a warning from `quantize`, the checker or onnxruntime:
#
#   one node       error 0.08, finite 100.0%, quantized: Conv
#   several nodes  error nan, finite 50.0%, quantized: Conv, Div, Mul, ReduceMean, Sqrt, Sub
#   without those  error 0.08, finite 100.0%, quantized: Conv
#
# Give `quantize` an `ignored_scope` with such nodes, by type as in the third line or by name, or fuse them before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nncf==3.4.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import logging

import nncf
import numpy as np
import onnx
import onnxruntime as ort

logging.disable()
generator = np.random.default_rng(0)
spread = np.float32([10, 10, 10, 10, 0.01, 0.01, 0.01, 0.01])  # of the channels
WEIGHTS = {
    "w": generator.standard_normal((8, 3, 3, 3)).astype(np.float32) * spread[:, None, None, None],
    "eps": np.float32([1e-5]),
    "one": np.ones(8, np.float32),
    "zero": np.zeros(8, np.float32),
}
samples = [generator.standard_normal((1, 3, 16, 16)).astype(np.float32) for _ in range(32)]
ONE = "y = InstanceNormalization (h, one, zero)"
SEVERAL = """m = ReduceMean <axes = [2, 3]> (h) d = Sub (h, m) q = Mul (d, d) v = ReduceMean <axes = [2, 3]> (q)
    e = Add (v, eps) s = Sqrt (e) y = Div (d, s)"""


def outputs(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": sample})[0] for sample in samples])


def quantized(name, normalization, **options):
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,3,16,16] x) => (float[1,8,14,14] y) {{ h = Conv (x, w) {normalization} }}""")
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in normalization + "w"
    )
    onnx.checker.check_model(model, full_check=True)
    data = nncf.Dataset([{"x": sample} for sample in samples])
    result = nncf.quantize(model, data, subset_size=32, **options)
    onnx.checker.check_model(result, full_check=True)
    made = {node.output[0] for node in result.graph.node if node.op_type == "DequantizeLinear"}
    kinds = sorted({node.op_type for node in result.graph.node if made & set(node.input)})
    wanted, found = outputs(model), outputs(result)
    error, finite = np.linalg.norm(found - wanted) / np.linalg.norm(wanted), np.isfinite(found).mean()
    print(f"{name:13}  error {error:.2f}, finite {finite:.1%}, quantized: {', '.join(kinds)}")
    return kinds, error, finite


assert quantized("one node", ONE)[1] < 0.1
kinds, error, finite = quantized("several nodes", SEVERAL)
assert "Div" in kinds
assert finite < 0.9
whole = nncf.IgnoredScope(types=["ReduceMean", "Sub", "Mul", "Sqrt", "Div"])
assert quantized("without those", SEVERAL, ignored_scope=whole)[1] < 0.1
PYTHON
