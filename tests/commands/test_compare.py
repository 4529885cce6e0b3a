from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_lowrank import compare, inspect
from onnx_lowrank.errors import CalibrationError, ModelError
from tests.helpers import build, filters, normal, relative, run

X = normal(5, 30, 3, 8, 8)


def network(seed: int = 0) -> onnx.ModelProto:
    return build(
        """g (float[N,3,8,8] x) => (float[N,4] y) {
            c = Conv<pads=[1,1,1,1]>(x, w, b)
            r = Relu(c)
            d = Conv<pads=[1,1,1,1], group=6>(r, u)
            p = GlobalAveragePool(d)
            f = Flatten(p)
            y = Gemm(f, v)
        }""",
        {
            **{"w": filters(0, 6, 3, 3, 3) + seed * filters(9, 6, 3, 3, 3) / 5, "b": normal(1, 6)},
            **{"u": filters(2, 6, 1, 3, 3), "v": normal(3, 6, 4)},
        },
    )


def test_inspect_lists_everything_in_the_order_of_the_graph(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    for source in (network(), tmp_path / "net.onnx", str(tmp_path / "net.onnx")):
        found = inspect(source).to_dict()
        assert found["macs"] == 64 * 27 * 6 + 64 * 9 * 6 + 24
        assert found["params"] == 27 * 6 + 6 + 9 * 6 + 24
        conv, depthwise, gemm = found["layers"]
        assert conv == {
            **{"name": "c", "op": "Conv", "macs": 64 * 27 * 6, "params": 27 * 6 + 6, "eligible": True, "reason": None},
            **{"activation": "relu", "shape": [6, 3, 3, 3], "groups": 1, "residual": None, "min_samples": 1},
            **{"width": None, "width_reason": "made by the network's input 'x'", "channel_groups": []},
            "narrowed_by": ["y"],
        }
        assert (depthwise["eligible"], depthwise["reason"]) == (False, "depthwise convolution")
        assert (gemm["name"], gemm["macs"], gemm["params"]) == ("y", 24, 24)


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_compare_looks_at_all_the_data(batch_size: int | None) -> None:
    a, b = network(), network(1)
    found = compare(a, b, {"x": X}, batch_size=batch_size, provider="cpu", threads=1)
    assert found.images == 30
    first, second = run(a, {"x": X})["y"], run(b, {"x": X})["y"]
    fidelity = found.outputs["y"]
    assert fidelity.relative_error == pytest.approx(relative(first, second), rel=1e-4)
    assert fidelity.agreement == pytest.approx((first.argmax(1) == second.argmax(1)).mean())
    assert found.to_dict()["accuracy"] is None


def test_compare_on_some_of_the_data_drawn_by_the_seed() -> None:
    errors = [compare(network(), network(1), {"x": X}, samples=5, seed=seed, provider="cpu") for seed in (1, 1, 2)]
    assert [found.images for found in errors] == [5, 5, 5]
    assert errors[0].outputs == errors[1].outputs != errors[2].outputs


def test_compare_inner_tensors() -> None:
    a, b = network(), network(1)
    before = a.SerializeToString()
    found = compare(a, b, {"x": X}, tensors=["d", "y", "d"], provider="cpu")
    assert list(found.outputs) == ["y", "d"]
    inner = [run(model, {"x": X}, ["d"])["d"] for model in (a, b)]
    assert found.outputs["d"].relative_error == pytest.approx(relative(*inner), rel=1e-4)
    assert found.outputs["d"].agreement is None
    assert a.SerializeToString() == before
    with pytest.raises(ModelError, match="`tensors` 'nowhere': <model> has no such tensor"):
        compare(a, b, {"x": X}, tensors=["nowhere"])


def test_compare_with_labels_needs_class_folders() -> None:
    with pytest.raises(CalibrationError, match="no class folders, which `labels` reads: drop `labels`"):
        compare(network(), network(), {"x": X}, labels=True)


def test_compare_models_of_other_inputs() -> None:
    other = build("g (float[N,3,9,9] x) => (float[N,3,9,9] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match=r"compare: <model> takes .*8, 8.*, <model> .*9, 9"):
        compare(network(), other, {"x": X})


def test_compare_models_of_a_fixed_batch() -> None:
    a, b = network(), network(1)
    for model in (a, b):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert compare(a, b, {"x": X}, provider="cpu").images == 28


def test_a_model_that_gives_nan_does_not_look_close() -> None:
    broken = network()
    weights = numpy_helper.to_array(broken.graph.initializer[0]).copy()
    weights[0, 0, 0, 0] = np.nan
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    assert not np.isfinite(compare(network(), broken, {"x": X}, provider="cpu").outputs["y"].relative_error)
