#!/usr/bin/env bash
# onnx2tf 2.6.9, ai-edge-litert 2.1.2 and 2.3.0: the float16 file that onnx2tf writes runs by grace of XNNPACK alone.
#
# Expected: NAME_float16.tflite holds weights of 16 bits with a DEQUANTIZE behind each, as TensorFlow's converter and
# onnx2tf 1.x write it, for which every kernel of LiteRT computes in float32.
#
# Happens: all of it is float16, inputs, outputs and convolutions too, without a DEQUANTIZE. LiteRT's own kernels take no
# float16, in the release that onnx2tf 2.6.9 brings along XNNPACK does not either, and onnx2tf reports "complete!":
#
#   types of tensors: float16 4; operators CONV_2D 1
#   ai-edge-litert 2.1.2             conv.cc:360 input_type == kTfLiteFloat32 || input_type == kTfLiteUInt8 ...
#   ai-edge-litert 2.1.2, no XNNPACK conv.cc:360 input_type == kTfLiteFloat32 || input_type == kTfLiteUInt8 ...
#   ai-edge-litert 2.3.0             error 0.0003
#   ai-edge-litert 2.3.0, no XNNPACK conv.cc:378 input_type == kTfLiteFloat32 || input_type == kTfLiteUInt8 ...
#
# Ship the float32 file, or look at what the release on your device says to the float16 one.
set -euo pipefail
for python in python3 "$HOME"/.pyenv/versions/3.1[2-4]*/bin/python3 python3.12 python3.13 python3.14; do
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && break
done
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { echo "onnx2tf 2.6.9 needs Python 3.12" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx2tf==2.6.9
"$python" -m venv "$folder/newest"
"$folder/newest/bin/pip" install --quiet --disable-pip-version-check ai-edge-litert==2.3.0 numpy==2.2.6
cd "$folder"
cat >write.py <<'PYTHON'
import numpy as np
import onnx

generator = np.random.default_rng(0)
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,3,16,16] x) => (float[1,8,14,14] y) { y = Conv (x, w) }""")
weight = generator.standard_normal((8, 3, 3, 3)).astype(np.float32)
model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "net.onnx")
PYTHON
cat >run.py <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

sample = np.random.default_rng(1).standard_normal((1, 16, 16, 3)).astype(np.float32)


def run(file, kernels):
    interpreter = Interpreter(file, experimental_op_resolver_type=kernels)
    if "show" in sys.argv and "16" in file and kernels == OpResolverType.AUTO:
        types = Counter(tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details())
        operators = Counter(operator["op_name"] for operator in interpreter._get_ops_details())
        shown = [", ".join(f"{name} {count}" for name, count in sorted(part.items())) for part in (types, operators)]
        print(f"types of tensors: {shown[0]}; operators {shown[1]}")
    interpreter.allocate_tensors()
    first = interpreter.get_input_details()[0]
    interpreter.set_tensor(first["index"], sample.astype(first["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


wanted = run("written/net_float32.tflite", OpResolverType.AUTO)
name = f"ai-edge-litert {version('ai-edge-litert')}"
kinds = {"": OpResolverType.AUTO, ", no XNNPACK": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
refused = []
for kind, kernels in kinds.items():
    try:
        error = np.linalg.norm(run("written/net_float16.tflite", kernels) - wanted) / np.linalg.norm(wanted)
    except RuntimeError as failure:
        refused.append(kind)
        print(f"{name + kind:32}", str(failure).removeprefix("tflite/kernels/")[:70], "...")
    else:
        print(f"{name + kind:32} error {error:.4f}")
        assert error < 0.01
assert refused == [kind for kind in kinds if kind or "show" in sys.argv]
PYTHON
venv/bin/python write.py
venv/bin/onnx2tf -i net.onnx -o written >log 2>&1
grep -q "Float16 tflite output complete!" log
venv/bin/python run.py show 2>/dev/null
newest/bin/python run.py 2>/dev/null
