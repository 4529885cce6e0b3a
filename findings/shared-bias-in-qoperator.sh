#!/usr/bin/env bash
# onnxruntime 1.32.0: quantize_static in QOperator format gives two layers that share a bias the first one's numbers.
#
# Expected: a quantized bias is counted in units of input scale times weight scale, which differ from layer to layer. So a
# bias that two layers read is quantized for each of them, as the QDQ format does (`b_quantized`, `b0_quantized`).
#
# Happens: in QOperator format there is one `b_quantized`, in the units of the layer that comes first. The second one adds
# a bias that is off by the ratio of the units, without a warning:
#
#   QDQ        error 0.01, biases b_quantized b0_quantized
#   QOperator  error 0.99, biases b_quantized
#
# Tools that merge equal initializers (onnxslim, onnxoptimizer) make such a bias of two that happen to be alike. Copy
# shared biases before quantizing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 sympy
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[1,8,16,16] x) => (float[1,8,16,16] y) {
    first = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    bounded = Tanh (first)
    y = Conv <pads = [1, 1, 1, 1]> (bounded, small, b)
}""")
generator = np.random.default_rng(0)
weight = generator.standard_normal((8, 8, 3, 3))
for name, array in {"w": weight, "small": weight / 100, "b": generator.standard_normal(8)}.items():
    model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "float.onnx")
batches = [{"x": generator.standard_normal((1, 8, 16, 16)).astype(np.float32)} for _ in range(8)]


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter(batches)

    def get_next(self):
        return next(self.batches, None)


def run(file):
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, batches[0])[0]


def seen(quant_format):
    quantize_static("float.onnx", "quantized.onnx", Reader(), quant_format=quant_format)
    wanted, found = run("float.onnx"), run("quantized.onnx")
    stored = [tensor.name for tensor in onnx.load("quantized.onnx").graph.initializer]
    biases = [name for name in stored if name in ("b_quantized", "b0_quantized")]
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    print(f"{quant_format.name:9}  error {error:.2f}, biases {' '.join(biases)}")
    return error, len(biases)


error, biases = seen(QuantFormat.QDQ)
assert error < 0.05 and biases == 2
error, biases = seen(QuantFormat.QOperator)
assert error > 0.5 and biases == 1
PYTHON
