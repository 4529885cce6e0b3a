#!/usr/bin/env bash
# MNN 3.6.1: converting a model first runs `pip install` for the SDK of a cloud's logging service.
#
# Expected: `mnnconvert`, which the wheel installs, reads a model and writes another, and touches nothing else; the wheel
# declares what it needs.
#
# Happens: on import it runs the program `pip` that comes first on PATH, which need not belong to the interpreter that runs:
# another environment gets a dozen packages and newer versions of what it had. Seen, with a `pip` that only writes down what
# it is asked for:
#
#   pip was run with: install -U aliyun-log-python-sdk
#   converted: True
#
# On a machine that must not change, call the compiled converter instead, which does not do this:
#   python -c "import _tools; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', '--modelFile', 'a.onnx', '--MNNModel', 'a.mnn'])"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check MNN==3.6.1 onnx==1.23.2 numpy==2.4.6
mkdir "$folder/first"
printf '#!/bin/sh\necho "$*" >> "%s"\n' "$folder/asked" > "$folder/first/pip"
chmod +x "$folder/first/pip"
cd "$folder"
venv/bin/python - <<'PYTHON'
import onnx

model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu (x) }""")
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "a.onnx")
PYTHON
convert="mnnconvert -f ONNX --modelFile a.onnx --MNNModel"
PATH="$folder/first:$PATH" venv/bin/$convert by_command.mnn > command.log 2>&1
asked=$(sort -u asked 2>/dev/null || true)  # it tries twice where this does not help
echo "pip was run with: $asked"
converted=$([ -s by_command.mnn ] && echo True || echo False)
echo "converted: $converted"
rm -f asked
PATH="$folder/first:$PATH" venv/bin/python -c "
import sys, _tools
_tools.mnnconvert(sys.argv[1:])" $convert compiled.mnn > compiled.log 2>&1
[ "$asked" = "install -U aliyun-log-python-sdk" ] && [ "$converted" = True ] && [ -s compiled.mnn ] && [ ! -e asked ]
