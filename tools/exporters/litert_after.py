"""Send a converted network through onnx2tf to LiteRT: ``python litert_after.py CONVERTED SAMPLES``.

Runs without this package, in an environment of onnx2tf, which wants releases of onnx and NumPy of its own. For each
file that onnx2tf writes: how many layers with weights it has, its bytes, and how far its first output is off.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
_LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}


def original(file: Path, samples: Array) -> tuple[str, Array]:
    """Return the name of the input of an ONNX file, and its first output for all samples."""
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return name, np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])


def write(file: Path, folder: Path, name: str, samples: Array) -> str:
    """Let onnx2tf write its files, those in eight bits too, calibrated with 16 samples; return what it failed with."""
    calibration = folder / "calibration.npy"
    np.save(calibration, np.moveaxis(samples[:16], 1, -1))
    # The samples are ready to use: mean 0 and deviation 1.
    images = ["-cind", name, str(calibration), "[[[[0]]]]", "[[[[1]]]]"]
    command = [str(Path(sys.executable).with_name("onnx2tf")), "-i", str(file), "-o", str(folder), "-oiqt", *images]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip().splitlines()[-1]


def outputs(file: Path, samples: Array) -> tuple[int, Array]:
    """Return how many layers a file of LiteRT has, and its first output for all samples, as the original has it."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for sample in samples:
        values = np.moveaxis(sample, 0, -1)[None]
        if source["dtype"] in {np.int8, np.int16}:
            scale, zero = source["quantization"]
            limits = np.iinfo(source["dtype"])
            values = np.clip(np.round(values / scale + zero), limits.min, limits.max)
        interpreter.set_tensor(source["index"], values.astype(source["dtype"]))
        interpreter.invoke()
        result = interpreter.get_tensor(target["index"]).astype(np.float64)
        if target["dtype"] in {np.int8, np.int16}:
            result = (result - target["quantization"][1]) * target["quantization"][0]
        results.append(result)
    operators = [operator["op_name"] for operator in interpreter._get_ops_details()]
    return sum(operator in _LAYERS for operator in operators), np.concatenate(results)


def main(source: Path, samples: Array) -> None:
    """Print one line per file."""
    name, wanted = original(source, samples)
    with tempfile.TemporaryDirectory() as folder:
        if failure := write(source, Path(folder), name, samples):
            print(f"onnx2tf: {failure}")
        for file in sorted(Path(folder).glob("*.tflite")):
            kind = file.stem.removeprefix(f"{source.stem}_")
            try:
                layers, found = outputs(file, samples)
            except RuntimeError as refusal:
                print(f"  {kind:42} {str(refusal).splitlines()[0][:120]}")
                continue
            error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            same = (found.argmax(-1) == wanted.argmax(-1)).mean()
            size = file.stat().st_size
            print(f"  {kind:42} layers {layers}, {size} bytes, error {error:.1e}, same class {same:.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), np.load(sys.argv[2]))
