#!/usr/bin/env bash
# onnx2tf 2.6.9: converting a file to LiteRT overwrites the file that is converted.
#
# Expected: a converter reads its input, and writes into the folder of `-o`.
#
# Happens: it writes the network back to where it was read, several times, by way of tools that name and simplify nodes.
# The ONNX file that one has trained, signed or versioned is another one afterwards, without the name of its producer, and
# nothing in the log says so; `-nuo`, which tells it not to simplify, does not prevent it:
#
#   before  producer trainer   names of nodes "", "", ""
#   after   producer none      names of nodes "sng_Conv_0", "sng_BatchNormalization_1", "sng_Relu_2"
#   -nuo    producer none      names of nodes "sng_Conv_0", "sng_BatchNormalization_1", "sng_Relu_2"
#
# Convert a copy.
set -euo pipefail
for python in python3 "$HOME"/.pyenv/versions/3.1[2-4]*/bin/python3 python3.12 python3.13 python3.14; do
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && break
done
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { echo "onnx2tf 2.6.9 needs Python 3.12" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx2tf==2.6.9
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

generator = np.random.default_rng(0)
model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17], producer_name: "trainer">
    g (float[1,3,16,16] x) => (float[1,8,14,14] y) {
        h = Conv (x, w) n = BatchNormalization (h, one, zero, zero, one) y = Relu (n)
    }""")
weights = {
    "w": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "one": np.full(8, 2, np.float32),
    "zero": np.zeros(8, np.float32),
}
model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "net.onnx")
shutil.copy("net.onnx", "copy.onnx")


def convert(file, *options):
    """Return whether the input has stayed as it was."""
    before = Path(file).read_bytes()
    command = [str(Path(sys.executable).with_name("onnx2tf")), "-i", file, "-o", f"of_{file}", *options]
    subprocess.run(command, check=True, capture_output=True)
    assert list(Path(f"of_{file}").glob("*_float32.tflite"))
    return Path(file).read_bytes() == before


def show(when, file):
    found = onnx.load(file)
    nodes = ", ".join(f'"{node.name}"' for node in found.graph.node)
    print(f"{when:7} producer {found.producer_name or 'none':9} names of nodes {nodes}")
    return found.producer_name, nodes


before = show("before", "net.onnx")
kept = convert("net.onnx")
after = show("after", "net.onnx")
assert not kept
assert before != after
kept = convert("copy.onnx", "-nuo")
show("-nuo", "copy.onnx")
assert not kept
PYTHON
