#!/usr/bin/env bash
# paddlepaddle 3.3.1, paddle2onnx 2.1.0: an export in a fresh environment says that paddle2onnx is not installed, which is.
#
# Expected: pip install paddlepaddle paddle2onnx is all that paddle.onnx.export wants.
#
# Happens: paddle2onnx imports `packaging`, which it does not require and which nothing else here brings along. Paddle
# turns that into advice to install what is there already:
#
#   ImportError: Failed importing paddle2onnx. This likely means that some paddle modules require additional dependencies
#   that have to be manually installed (usually with `pip install paddle2onnx`).
#   import paddle2onnx: No module named 'packaging'
#
# Most environments have `packaging` by chance, from matplotlib, pytest or the like. Install it, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check paddlepaddle==3.3.1 paddle2onnx==2.1.0 numpy==2.4.6
cat > "$folder/export.py" <<'PYTHON'
import sys

import paddle

network = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.ReLU())
spec = [paddle.static.InputSpec([None, 3, 8, 8], "float32", "x")]
try:
    paddle.onnx.export(network, sys.argv[1], input_spec=spec, opset_version=17)
except ImportError as error:
    print(f"ImportError: {error}")
    try:
        import paddle2onnx
    except ModuleNotFoundError as cause:
        print(f"import paddle2onnx: {cause}")
        sys.exit(cause.name != "packaging" or "pip install paddle2onnx" not in str(error))
    sys.exit("paddle2onnx is imported")
sys.exit("exported")
PYTHON
"$folder/venv/bin/python" "$folder/export.py" "$folder/network" 2> "$folder/log" || { tail -5 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check packaging
! "$folder/venv/bin/python" "$folder/export.py" "$folder/network" > "$folder/log" 2>&1
tail -1 "$folder/log"
grep -q "^exported$" "$folder/log"
