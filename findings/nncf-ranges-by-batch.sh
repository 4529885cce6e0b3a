#!/usr/bin/env bash
# NNCF 3.4.0 on ONNX: how samples are cut into batches decides how much a quantized network is off.
#
# Expected: with 256 samples to calibrate with, the range of a tensor is that of the 256 samples, as with onnxruntime's MinMax,
# whether they come one at a time or all at once; batches only make it quicker.
#
# Happens: the range is the mean of the ranges of the batches. One at a time, the values of an uncommon but ordinary sample
# are cut off at a fraction of what they were calibrated with; the smaller the batches, the more:
#
#   batches of   1: range  3.56 of 15.68, error 0.385
#   batches of   4: range  6.67 of 15.68, error 0.159
#   batches of  16: range 11.19 of 15.68, error 0.049
#   batches of 256: range 15.68 of 15.68, error 0.028
#   batches of   1: range 15.68 of 15.68, error 0.028, with RangeEstimatorParametersSet.MINMAX
#
# The errors differ between processors: with AVX512-VNNI they were 0.370, 0.140, 0.032, 0.023 and 0.023.
#
# Choose the estimator, as in the last line, where samples differ in size.
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
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

logging.disable()
generator = np.random.default_rng(0)
weight = (generator.standard_normal((64, 32)) / 8).astype(np.float32)
samples = generator.standard_normal((256, 64)).astype(np.float32)
samples[::8] *= 4  # every eighth is larger
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,64] x) => (float[N,32] y) { y = MatMul (x, w) }""")
model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
onnx.checker.check_model(model, full_check=True)


def run(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": samples})[0]


def quantized(size, note="", **options):
    batches = [{"x": samples[first : first + size]} for first in range(0, 256, size)]
    result = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches), **options)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    scale = next(arrays[node.input[1]] for node in result.graph.node if node.op_type == "QuantizeLinear")
    found, wanted, most = 127 * float(scale), run(model), np.abs(samples).max()
    error = float(np.linalg.norm(run(result) - wanted) / np.linalg.norm(wanted))
    print(f"batches of {size:3}: range {found:5.2f} of {most:.2f}, error {error:.3f}{note}")
    return error


errors = [quantized(size) for size in (1, 4, 16, 256)]
assert errors[0] > 5 * errors[-1]
assert errors == sorted(errors, reverse=True)
advanced = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
named = ", with RangeEstimatorParametersSet.MINMAX"
assert quantized(1, named, advanced_parameters=advanced) < 1.1 * errors[-1]
PYTHON
