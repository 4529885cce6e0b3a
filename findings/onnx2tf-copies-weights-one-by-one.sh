#!/usr/bin/env bash
# onnx2tf 1.29.24, the last release for Python 3.10 and 3.11: a conversion takes minutes where a network has many weights.
#
# Expected: weights are arrays; a network of 2 million of them takes hardly longer than one of 8 thousand.
#
# Happens: weights become arguments of Keras layers, and Keras writes the layers' configuration as lists of numbers, twice
# for each of the two files that are made (float32, and float16, which cannot be declined). Every weight is copied four
# times on its own, in Python, and turned into text as often:
#
#   weights     copies of single numbers per weight    seconds beside the small one, beside other work
#       8192    4.1
#    2097152    4.0                                    33
#
# A VGG-16 of 16 million weights took 130 seconds of processor time; by the profiler, 95 % of a conversion are in this.
# onnx2tf 2.6.9, for Python 3.12 and later, which writes the file without TensorFlow, took two seconds for it.
set -euo pipefail
for python in python3 "$HOME"/.pyenv/versions/3.11*/bin/python3 python3.11 python3.10; do
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' 2>/dev/null && break
done
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' ||
  { echo "onnx2tf 1.29.24 needs Python 3.10 or 3.11" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx2tf==1.29.24
cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import pstats
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx

# onnx2tf looks for photographs to run the network on, and fetches them where no file of this name lies.
np.save("calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
PROGRAM = str(Path(sys.executable).with_name("onnx2tf"))


def converted(wide):
    """Return the number of weights, how often one was copied, and the seconds of the conversion."""
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,64,8,8] x) => (float[1,64,8,8] y) {{ h = Conv (x, a) r = Relu (h) y = Conv (r, b) }}""")
    generator = np.random.default_rng(0)
    for name, shape in {"a": (wide, 64, 1, 1), "b": (64, wide, 1, 1)}.items():
        array = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    command = [sys.executable, "-m", "cProfile", "-o", "profile", PROGRAM, "-i", "net.onnx", "-o", f"wide{wide}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    weights = 2 * 64 * wide
    assert Path(f"wide{wide}/net_float32.tflite").stat().st_size >= 4 * weights
    calls = {name: figures[0] for (file, _, name), figures in pstats.Stats("profile").stats.items() if "copy.py" in file}
    return weights, calls["_deepcopy_atomic"] / weights, seconds


small, large = converted(64), converted(16384)
print(f"{'weights':>10}    copies of single numbers per weight    seconds beside the small one")
print(f"{small[0]:10}    {small[1]:.1f}")
print(f"{large[0]:10}    {large[1]:.1f}{'':36}{large[2] - small[2]:.0f}")
assert large[1] >= 3
PYTHON
