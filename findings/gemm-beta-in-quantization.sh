#!/usr/bin/env bash
# onnxruntime 1.32.0: quantize_static loses the `beta` of a Gemm, the factor of its bias.
#
# Expected: a quantized Gemm is off by about a percent, whatever its attributes are.
#
# Happens: `beta` becomes 1 and the bias stays as it was. When the model runs, optimizations make a QGemm of it, which
# reads the bias in another unit, so it becomes wrong a second time: bias / beta instead of bias * beta. Without a warning:
#
#   beta 1.0  error 0.00, without optimizations 0.00
#   beta 2.0  error 0.75, without optimizations 0.50
#
# PyTorch's exporters write `beta` for torch.addmm. Multiply the bias by it before quantizing.
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
from onnxruntime.quantization import CalibrationDataReader, quantize_static

generator = np.random.default_rng(0)
WEIGHTS = {
    "w": generator.standard_normal((64, 32)).astype(np.float32),
    "b": 100 * generator.standard_normal(32).astype(np.float32),
}
batches = [{"x": generator.standard_normal((8, 64)).astype(np.float32)} for _ in range(8)]


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter(batches)

    def get_next(self):
        return next(self.batches, None)


def run(file, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(file, options, ["CPUExecutionProvider"]).run(None, batches[0])[0]


def errors(beta):
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[8,64] x) => (float[8,32] y) {{ y = Gemm <beta = {beta}> (x, w, b) }}""")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in WEIGHTS.items())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    quantize_static("float.onnx", "quantized.onnx", Reader())
    wanted = run("float.onnx")
    found = run("quantized.onnx"), run("quantized.onnx", ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    return [float(np.linalg.norm(each - wanted) / np.linalg.norm(wanted)) for each in found]


for beta, wanted in {1.0: (0, 0), 2.0: (0.75, 0.5)}.items():
    found = errors(beta)
    print("beta {}  error {:.2f}, without optimizations {:.2f}".format(beta, *found))
    assert np.allclose(found, wanted, atol=0.02)
PYTHON
