"""Send a converted network through the tools that people use afterwards: ``python tools_after.py CONVERTED SAMPLES``.

Runs without this package, where the tools are installed. For each tool: whether the thin
convolutions are still as many, whether names and metadata stay, how far the outputs are off, and how many times as fast
as before the file runs in onnxruntime on one thread (medians of rounds in turns).
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
_ROUNDS, _RUNS = 12, 20
_LAYERS = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm"),
    *("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger"),
}


class Samples:
    """Calibration data as onnxruntime's quantizer reads them."""

    def __init__(self, name: str, samples: Array) -> None:
        self.batches: Iterator[dict[str, Array]] = iter([{name: sample[None]} for sample in samples])

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample; None behind the last."""
        return next(self.batches, None)


def tools(samples: Array) -> dict[str, Callable[[Path, Path], None]]:
    """Return what each tool does with a file, writing another."""
    from onnxruntime import quantization  # noqa: PLC0415

    def static(source: Path, target: Path, **options: Any) -> None:
        name = onnx.load(source).graph.input[0].name
        quantization.quantize_static(source, target, Samples(name, samples[:16]), **options)

    return {
        "onnxslim": _onnxslim,
        "onnxsim": lambda source, target: onnx.save(_onnxsim(onnx.load(source)), target),
        "onnxoptimizer": lambda source, target: onnx.save(_onnxoptimizer(onnx.load(source)), target),
        "onnx-graphsurgeon": lambda source, target: onnx.save(_graphsurgeon(onnx.load(source)), target),
        "onnxruntime, basic": lambda source, target: _optimized(source, target, "ORT_ENABLE_BASIC"),
        "onnxruntime, extended": lambda source, target: _optimized(source, target, "ORT_ENABLE_EXTENDED"),
        "INT8 QDQ per tensor": static,
        "INT8 QDQ per channel": lambda source, target: static(source, target, per_channel=True),
        "INT8 QOperator": lambda source, target: static(
            source, target, quant_format=quantization.QuantFormat.QOperator
        ),
        "INT8 dynamic": quantization.quantize_dynamic,
        "INT8 NNCF": lambda source, target: onnx.save(_nncf(onnx.load(source), samples), target),
        "INT8 NNCF, whole ranges": lambda source, target: onnx.save(
            _nncf(onnx.load(source), samples, whole_ranges=True), target
        ),
        "fp16, onnxconverter-common": lambda source, target: onnx.save(_half(onnx.load(source)), target),
        "fp16, onnxruntime": lambda source, target: onnx.save(_half_of_onnxruntime(onnx.load(source)), target),
    }


def _onnxslim(source: Path, target: Path) -> None:
    import onnxslim  # noqa: PLC0415

    onnxslim.slim(str(source), str(target))


def _onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim  # noqa: PLC0415

    simplified: onnx.ModelProto = onnxsim.simplify(model)[0]
    return simplified


def _onnxoptimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxoptimizer  # noqa: PLC0415

    optimized: onnx.ModelProto = onnxoptimizer.optimize(model)
    return optimized


def _graphsurgeon(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_graphsurgeon  # noqa: PLC0415

    exported: onnx.ModelProto = onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(model).cleanup())
    return exported


def _nncf(network: Any, samples: Array, *, whole_ranges: bool = False) -> Any:
    """Quantize a model of ONNX or OpenVINO; with the ranges of all samples, or by default with the mean of them."""
    import nncf  # noqa: PLC0415
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # noqa: PLC0415

    feeds = [sample[None] for sample in samples[:16]]
    named = [{network.graph.input[0].name: feed} for feed in feeds] if isinstance(network, onnx.ModelProto) else feeds
    ranges = {"activations_range_estimator_params": RangeEstimatorParametersSet.MINMAX} if whole_ranges else {}
    advanced = nncf.AdvancedQuantizationParameters(**ranges)
    return nncf.quantize(network, nncf.Dataset(named), advanced_parameters=advanced)


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxconverter_common import float16  # noqa: PLC0415

    converted: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    return converted


def _half_of_onnxruntime(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers import float16  # noqa: PLC0415

    converted: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    return converted


def _optimized(source: Path, target: Path, level: str) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def run(model: Path, samples: Array) -> Array:
    """Return the first output of all samples, one at a time."""
    session = _session(model)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples]).astype(np.float64)


def times_as_fast(before: Path, after: Path, sample: Array) -> float:
    """Return how many times as fast as before a file runs, one sample at a time."""
    sessions = [_session(before), _session(after)]
    feeds = {sessions[0].get_inputs()[0].name: sample[None]}
    seconds: list[list[float]] = [[], []]
    for number in [number for _ in range(_ROUNDS) for number in range(2)]:
        begin = time.perf_counter()
        for _ in range(_RUNS):
            sessions[number].run(None, feeds)
        seconds[number].append(time.perf_counter() - begin)
    return float(np.median(seconds[0][1:]) / np.median(seconds[1][1:]))  # the first round warms up


def _session(model: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def layers(model: onnx.ModelProto) -> tuple[int, set[str]]:
    """Return how many nodes have weights, and the names of all nodes."""
    return sum(node.op_type in _LAYERS for node in model.graph.node), {node.name for node in model.graph.node}


def openvino(source: Path, samples: Array, *, quantized: bool = False) -> tuple[int, Array]:
    """Return how many convolutions and products OpenVINO's network has, and its first output; in eight bits by NNCF."""
    from openvino import Core  # noqa: PLC0415

    core = Core()
    network = core.read_model(source)
    if quantized:
        network = _nncf(network, samples, whole_ranges=True)
    kinds = [operation.get_type_name() for operation in network.get_ops()]
    count = sum(kind in {"Convolution", "ConvolutionBackpropData", "MatMul", "GroupConvolution"} for kind in kinds)
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    outputs = [compiled(sample[None])[0] for sample in samples]
    return count, np.concatenate(outputs).astype(np.float64)


def main(source: Path, samples: Array) -> None:
    """Print one line per tool."""
    model, wanted = onnx.load(source), run(source, samples)
    before, names = layers(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    print(f"{source.name}: {before} layers, metadata {sorted(metadata)}")

    def error(found: Array) -> str:
        same = (found.argmax(-1) == wanted.argmax(-1)).mean()
        return f"error {np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.1e}, same class {same:.1%}"

    for tool, apply in tools(samples).items():
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "after.onnx"
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    apply(source, target)
                changed = onnx.load(target)
                count, others = layers(changed)
                kept = {entry.key: entry.value for entry in changed.metadata_props}
                stay = len(names & others) / len(names)
                seen = f"{error(run(target, samples))}, {times_as_fast(source, target, samples[0]):.2f} times as fast"
            except Exception as failure:  # tools raise many types
                print(f"  {tool:27} {type(failure).__name__}: {str(failure).strip().splitlines()[0][:160]}")
                continue
        lost = sorted(key for key, value in metadata.items() if kept.get(key) != value)
        domains = sorted({node.domain for node in changed.graph.node} - {""})
        print(
            f"  {tool:27} layers {count}, names {stay:.0%}, metadata {'kept' if not lost else f'lost {lost}'}, {seen}"
            f"{f', domains {domains}' if domains else ''}"
        )
    for name, quantized in (("OpenVINO", False), ("INT8 NNCF, OpenVINO", True)):
        count, found = openvino(source, samples, quantized=quantized)
        print(f"  {name:27} layers {count}, {error(found)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), np.load(sys.argv[2]))
