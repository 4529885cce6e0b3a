#!/usr/bin/env bash
# onnxconverter-common 1.16.0 and onnxruntime 1.32.0: their float16 converters overlook constants of the short form.
#
# Expected: a Constant node may hold its number as `value` (a tensor) or as `value_float` (the number itself, since
# opset 12); both are float32, and both become float16.
#
# Happens: both converters, which come from one source, know `value` alone. The number of the other form stays float32
# beside float16 tensors, and the result, which is returned without a word, cannot be loaded:
#
#   value        onnxconverter-common: loads
#   value        onnxruntime:          loads
#   value_float  onnxconverter-common: Type parameter (T) of Optype (Mul) bound to different types
#   value_float  onnxruntime:          Type parameter (T) of Optype (Mul) bound to different types
#
# onnxscript's `op.Constant(value_float=0.25)` is one. Fold such nodes into initializers first, with onnxslim for
# example.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxconverter-common==1.16.0 onnxruntime==1.32.0 numpy==2.4.6 sympy packaging
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import onnx
import onnxruntime as ort
from onnxconverter_common import float16
from onnxruntime.transformers import float16 as float16_of_onnxruntime

CONVERTERS = {"onnxconverter-common": float16, "onnxruntime": float16_of_onnxruntime}
FORMS = {"value": "value = float {0.25}", "value_float": "value_float = 0.25"}


def loads(model):
    try:
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error).partition("Type Error: ")[2].partition(" (tensor")[0] or str(error)
    return "loads"


for form, attribute in FORMS.items():
    for name, converter in CONVERTERS.items():
        model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4] x) => (float[1,4] y) {{ scale = Constant <{attribute}> ()  y = Mul (x, scale) }}""")
        onnx.checker.check_model(model, full_check=True)
        assert loads(model) == "loads"
        message = loads(converter.convert_float_to_float16(model))
        print(f"{form:12} {name + ':':21} {message}")
        assert message == "loads" if form == "value" else "bound to different types" in message
PYTHON
