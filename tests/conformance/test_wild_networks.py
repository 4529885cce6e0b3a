"""Networks as in the wild: at full rank the outputs are the same, or it is said why not; nothing is counted wrongly."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, event, given, settings

from onnx_lowrank import LayerPlan, RankPlan, convert, inspect
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import largest_ranks
from tests.conformance.wild_networks import SAMPLES, SIZE, Array, Case, wild_networks
from tests.conftest import USUAL_EXAMPLES
from tests.helpers import run

SCALE = settings.default.max_examples // USUAL_EXAMPLES  # 10 in the nightly profile
any_network = settings(
    max_examples=20 * SCALE**2,
    deadline=None,
    derandomize=SCALE == 1,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
COUNTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def macs(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> int:
    """Multiply-adds of one sample, counted from the tensors as they run."""
    nodes = [node for node in model.graph.node if node.op_type in COUNTED]
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    feeds = {value.name: feeds[value.name] for value in model.graph.input}
    shapes = stored | {name: np.shape(values) for name, values in feeds.items()}
    names = {name for node in nodes for name in (*node.input, node.output[0])} - shapes.keys()
    shapes |= {name: values.shape for name, values in run(model, feeds, sorted(names)).items()}
    total = 0
    for node in nodes:
        x, weight, y = (shapes[name] for name in (*node.input[:2], node.output[0]))
        if node.op_type in {"Gemm", "MatMul"}:
            total += prod(y) * x[-1]
        else:
            total += prod(x if node.op_type == "ConvTranspose" else y) * prod(weight[1:])
    return total


class Deployed:
    """A model in onnxruntime with all its optimizations."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # float32, not int8
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = self.session.run(self.outputs, {name: feeds[name] for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


def check_same(case: Case, written: onnx.ModelProto) -> None:
    """Check what does not depend on random numbers."""
    original, converted = Deployed(case.model), Deployed(written)
    for feeds in case.fresh:
        before, again, after = (model.run(feeds) for model in (original, original, converted))
        for name, values in before.items():
            if values.dtype == object:
                assert (values == after[name]).all()
                continue
            assert after[name].shape == values.shape
            if not np.array_equal(values, again[name]):
                assert "noise" in case.spices
                continue
            # Values may cancel to nothing. In float16 onnxruntime sets what is below 6e-5 to zero.
            relative, absolute = (3e-2, 1e-4) if values.dtype == np.float16 else (1e-3, 1e-5)
            if (
                "quantized matrix" in case.spices
            ):  # onnxruntime's MatMulNBits, which takes its place, rounds what it reads
                relative = max(relative, 2e-2)
            largest = float(np.abs(values).max())
            assert np.abs(values.astype(np.float64) - after[name]).max() <= relative * largest + absolute, name


@any_network
@given(wild_networks())
def test_full_rank_changes_nothing_or_it_is_said_why_not(case: Case) -> None:
    entries, seen = [], inspect(case.model, data=case.data, constant_inputs=case.constants)
    for row in seen.rows:
        if isinstance(row, Layer):
            method = "spatial-channel" if row.separable else "channel"
            ranks = {kind: most for kind, most in largest_ranks(row).items() if kind in method.split("-")}
            entries.append(LayerPlan(row.name, method, **ranks))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.onnx"
        try:
            result = convert(
                case.model, case.data, plan=RankPlan(tuple(entries)), solver="linear", refine="none", bench=False,
                constant_inputs=case.constants, output=path,
            )  # fmt: skip
        except LowRankError as error:
            event(said := str(error))
            if entries or not said.startswith("no layer can be factorized (") or [*Path(folder).iterdir()]:
                raise
            return
        written = onnx.load(path)
    assert result.report.macs[0] == seen.macs == macs(case.model, case.fresh[0])
    assert result.report.macs[1] == macs(written, case.fresh[0])
    check_same(case, written)


@any_network
@given(wild_networks())
def test_inspect_and_convert_say_the_same(case: Case) -> None:
    inputs = {value.name: value.type.tensor_type.shape.dim for value in case.model.graph.input}
    shapes = {
        name: tuple(SIZE if dim.dim_param in {"H", "W"} else dim.dim_value or 1 for dim in dims)
        for name, dims in inputs.items()
        if {"H", "W"} & {dim.dim_param for dim in dims}
    }
    constants = case.constants | {name: values for name, values in case.data.items() if not values.ndim}
    without = {row.name: row for row in inspect(case.model, input_shapes=shapes, constant_inputs=constants).rows}
    on_data = {row.name: row for row in inspect(case.model, data=case.data, constant_inputs=case.constants).rows}
    assert without.keys() == on_data.keys()
    for name, row in on_data.items():
        alone = without[name]
        if isinstance(row, Layer) or not isinstance(alone, Layer):
            assert getattr(alone, "reason", None) == getattr(row, "reason", None)
        else:
            assert "rows of samples are too few" in row.reason
    try:
        report = convert(
            case.model, case.data, speedup=1.01, dry_run=True, bench=False, constant_inputs=case.constants
        ).report
    except LowRankError as error:
        none = not any(isinstance(row, Layer) for row in on_data.values())
        if str(error).startswith("no layer can be factorized (") if none else "cannot be reached" in str(error):
            return
        raise
    assert report.calibration.images <= SAMPLES
    said = {layer.name: layer.reason for layer in report.layers}
    stays = {name: row.reason for name, row in on_data.items() if not isinstance(row, Layer)}
    assert stays.items() <= said.items()
