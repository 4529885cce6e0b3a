"""Check exported files: what of it can be factorized, equal at full rank, valid at half the cost.

python tools/exporters/check.py FILE...
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import onnx_lowrank as olr
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import largest_ranks
from spectrum import image_batch

Feeds = Mapping[str, NDArray[Any]]
SAMPLES, SIZE = 24, 64
_QUICK: dict[str, Any] = {"bench": False, "samples": SAMPLES, "positions": 40, "threads": 1, "asymmetric": False}


def check(file: Path) -> dict[str, Any]:
    """Return what was seen of a file, see the keys."""
    start = time.perf_counter()
    model = onnx.load(file, load_external_data=False)
    inspection, feeds = olr.inspect(file), samples(model)
    layers = [row for row in inspection.rows if isinstance(row, Layer)]
    stay = Counter(re.sub(r"[0-9]+|'[^']*'", "_", row.reason) for row in inspection.rows if not isinstance(row, Layer))
    entries = [olr.LayerPlan(layer.name, "channel", channel=largest_ranks(layer)["channel"]) for layer in layers]
    return {
        "file": file.name,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": {entry.domain: entry.version for entry in model.opset_import},
        "ir": model.ir_version,
        "functions": len(model.functions),
        "external": any(tensor.data_location for tensor in model.graph.initializer),
        "layers": f"{len(layers)} / {len(inspection.rows)}",
        "stay": dict(stay),
        "full": _converted(file, feeds, plan=olr.RankPlan(tuple(entries)), solver="weights", refine="none", **_QUICK),
        "half": _converted(file, feeds, speedup=2, preview=True, **_QUICK),
        "seconds": round(time.perf_counter() - start, 1),
    }


def samples(model: onnx.ModelProto) -> Feeds:
    """Draw samples for the inputs of a model: open sizes become 64, whole numbers 0 and 1."""
    generator, stored = np.random.default_rng(2), {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        sizes = [axis.dim_value or SIZE for axis in kind.shape.dim][1:]
        shape = (SAMPLES, *sizes)
        if onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).kind != "f":
            feeds[value.name] = generator.integers(0, 2, shape)
        elif len(shape) == 4:
            feeds[value.name] = image_batch(generator, shape, channels_last=shape[3] <= 4)
        else:
            feeds[value.name] = generator.standard_normal(shape, np.float32)
    return feeds


def _converted(file: Path, feeds: Feeds, **settings: Any) -> str:
    """Return how far the outputs of the converted file are from the original's, or why it was not converted."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "converted.onnx"
        try:
            result = olr.convert(file, dict(feeds), output=written, **settings)
        except LowRankError as error:
            return str(error)
        except Exception as error:  # a defect: it shall not hide what the other files say
            return f"DEFECT {type(error).__name__}: {error}"
        onnx.checker.check_model(written, full_check=True)
        before, after = _outputs(file, feeds), _outputs(written, feeds)
    assert list(before) == list(after)
    errors = [_error(before[name], after[name]) for name in before]
    return f"{max(errors):.1e} at {result.report.speedup:.2f}x"


def _error(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    assert wanted.shape == found.shape
    assert np.isfinite(found).all()
    return float(np.linalg.norm(wanted - found)) / max(float(np.linalg.norm(wanted)), 1e-30)


def _outputs(file: Path, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Run a file as its users do, with all optimizations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    batch = session.get_inputs()[0].shape[0]
    step = batch if isinstance(batch, int) else SAMPLES
    runs = [
        session.run(None, {name: array[start : start + step] for name, array in feeds.items()})
        for start in range(0, SAMPLES, step)
    ]
    names = [output.name for output in session.get_outputs()]
    return {
        name: np.concatenate(parts).astype(np.float64)
        for name, parts in zip(names, zip(*runs, strict=True), strict=True)
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(check(Path(argument))), flush=True)
