from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_lowrank import LayerPlan, RankPlan, Result, Settings, compare, convert, inspect, pipeline, preset
from onnx_lowrank.calibrate import Propagation, iterate_batches
from onnx_lowrank.errors import BudgetError, CalibrationError, ModelError, OutputError, RankError, VerificationError
from onnx_lowrank.layers.factors import Convolution, FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import FACTORIZATIONS, largest_ranks, rank_kinds
from onnx_lowrank.layers.responses import LayerSamples, Patches, TargetResponses
from onnx_lowrank.pipeline import open_conversion
from onnx_lowrank.ranks import depth_weights, within
from onnx_lowrank.report.files import OutputFiles
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.verify import Comparison, OutputFidelity
from tests import networks as small
from tests.helpers import Array, applied, build, filters, find, normal, relative, run

IMAGES = 40
SAME = "pads=[1,1,1,1]"


def images(seed: int, count: int = IMAGES, size: int = 12) -> Array:
    """Smooth images, whose responses are of low rank as those of photos are."""
    low = np.random.default_rng(seed).normal(size=(count, 3, 4, 4))
    return np.kron(low, np.ones((1, 1, size // 4, size // 4))).astype(np.float32) + 0.1 * normal(
        seed, count, 3, size, size
    )


def low_rank_filters(seed: int, d: int, c: int, kh: int = 3, kw: int = 3) -> Array:
    """Filters that are close to combinations of a few."""
    few = filters(seed, max(2, d // 4), c, kh, kw)
    mixing = normal(seed + 50, d, len(few)) / np.sqrt(len(few))
    return np.tensordot(mixing, few, 1).astype(np.float32) + 0.05 * filters(seed + 90, d, c, kh, kw)


def network(batch: str = "N", opset: int = 13, ir: int = 8) -> onnx.ModelProto:
    """A small residual network: a normalized stem, a residual block, a head."""
    model = build(
        f"""g (float[{batch},3,12,12] x) => (float[{batch},5] y) {{
            c0 = Conv<{SAME}>(x, w0)
            n0 = BatchNormalization(c0, gamma, beta, mean, var)
            r0 = Relu(n0)
            c1 = Conv<{SAME}>(r0, w1, b1)
            r1 = Relu(c1)
            c2 = Conv<{SAME}>(r1, w2)
            s2 = Add(c2, r0)
            r2 = Relu(s2)
            c3 = Conv<{SAME}, strides=[2,2]>(r2, w3, b3)
            r3 = Relu(c3)
            p = GlobalAveragePool(r3)
            f = Flatten(p)
            y = Gemm(f, v, u)
        }}""",
        {
            **{"w0": filters(0, 16, 3, 3, 3), "w1": low_rank_filters(1, 16, 16), "w2": low_rank_filters(2, 16, 16)},
            **{"w3": low_rank_filters(3, 24, 16), "b1": normal(4, 16) / 5, "b3": normal(5, 24) / 5},
            **{"gamma": 1 + normal(6, 16) / 5, "beta": normal(7, 16) / 5, "mean": normal(8, 16) / 5},
            **{"var": 1 + normal(9, 16) ** 2 / 5, "v": normal(10, 24, 5), "u": normal(11, 5)},
        },
        opset=opset,
        ir=ir,
    )
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = f"conv{node.output[0][1:]}"
    return model


def converted(model: onnx.ModelProto | str | Path, data: Any = None, **changes: Any) -> Result:
    """`convert` with settings that suit small tests."""
    defaults: dict[str, Any] = {
        "speedup": 2.0,
        "provider": "cpu",
        "threads": 1,
        "rank_multiple": 1,
        "samples": 30,
        "seed": 1,
        "bench": False,
    }
    return convert(model, {"x": images(0)} if data is None else data, **defaults | changes)


def model_of(result: Result) -> onnx.ModelProto:
    assert result.model is not None
    return result.model


def full_rank(model: onnx.ModelProto, feeds: Mapping[str, Array], method: str = "channel") -> RankPlan:
    entries = []
    for layer in find(model, feeds)[0]:
        own = "channel" if layer.single_point and "input" in rank_kinds(method) else method
        entries.append(LayerPlan(layer.name, own, **{kind: largest_ranks(layer)[kind] for kind in rank_kinds(own)}))
    return RankPlan(tuple(entries))


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


# What comes out


def test_half_the_multiply_adds_and_nearly_the_same_outputs(tmp_path: Path) -> None:
    model = network()
    result = converted(model, output=tmp_path / "out.onnx")
    report = result.to_dict()
    assert report["speedup"]["requested"] == 2.0
    assert report["macs"]["before"] == inspect(model).macs
    assert report["macs"]["after"] == inspect(model_of(result)).macs
    assert 2.0 <= report["speedup"]["macs"] < 2.1
    assert report["params"]["after"] == inspect(model_of(result)).parameters
    x = images(99)
    error = relative(run(model, {"x": x})["y"], run(model_of(result), {"x": x})["y"])
    assert error < 0.05
    assert report["verification"]["images"] == 10
    assert report["verification"]["outputs"]["y"]["relative_error"] < 0.05
    assert onnx.load(tmp_path / "out.onnx") == model_of(result)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    onnx.checker.check_model(model_of(result), full_check=True)


def test_the_report_lists_every_layer_in_the_order_of_the_graph() -> None:
    result = converted(network(), method="channel", exclude=["conv1"])
    report = result.to_dict()
    assert [layer["name"] for layer in report["layers"]] == ["conv0", "conv1", "conv2", "conv3", "y"]
    conv1, gemm = report["layers"][1], report["layers"][4]
    assert (conv1["method"], conv1["reason"]) == ("kept", "excluded by 'conv1'")
    assert (gemm["op"], gemm["reason"]) == (
        "Gemm",
        "30 rows of samples are too few for 5 filters: 10 each are wanted",
    )
    planned = {entry.name: entry for entry in result.plan}
    for layer in report["layers"]:
        if layer["method"] == "kept":
            assert layer["macs"]["before"] == layer["macs"]["after"]
            assert layer["reason"]
        else:
            assert layer["ranks"] == {"channel": planned[layer["name"]].channel, "spatial": None, "input": None}
            assert 0 < layer["error"]["solved"] <= layer["error"]["linear"] < 1
            assert 0 < layer["energy"] < 1
    assert sum(layer["macs"]["after"] for layer in report["layers"]) == report["macs"]["after"]
    assert {layer["activation"] for layer in report["layers"][:4]} <= {"relu", ""}
    assert report["calibration"]["images"] == 30
    assert report["calibration"]["synthetic"] is False
    assert report["calibration"]["provider"] == "cpu"
    assert 1 <= report["forward_passes"]["original"] <= 1 + 1 / 30
    assert 0 < report["forward_passes"]["converted"] <= 1
    assert report["seconds"]["total"] >= sum(value for key, value in report["seconds"].items() if key != "total")
    assert report["peak_memory_bytes"] > 10_000_000


@pytest.mark.parametrize(("gigabytes", "left"), [(2e-3, None), (1e-5, 0)])
def test_the_bound_on_memory_is_for_targets_too(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float, left: int | None
) -> None:
    """What the original delivered is held while layers are solved; no other layer's patches are, and no probes."""
    held, bounds, patches, probes = [], [], [], []
    collect = pipeline.collect_targets

    def collected(*args: Any) -> dict[str, TargetResponses]:
        targets = collect(*args)
        held.append(sum(sum(a.nbytes for a in (x.responses, x.residual) if a is not None) for x in targets.values()))
        probes.extend(ref(x.probe.patches) for x in targets.values() if x.probe)
        return targets

    class Watched(Propagation):
        def __init__(self, batches: Any, positions: Any, provider: Any, most_bytes: int, most_resident: int) -> None:
            super().__init__(batches, positions, provider, most_bytes, most_resident)
            bounds.append(most_bytes)
            assert probes
            assert not any(each() is not None for each in probes)

        def advance(self, *args: Any) -> Patches:
            found = super().advance(*args)
            assert not any(each() is not None for each in patches)
            patches.append(ref(found))
            return found

    monkeypatch.setattr(pipeline, "collect_targets", collected)
    monkeypatch.setattr(pipeline, "Propagation", Watched)
    converted(network(), memory=gigabytes)
    assert bounds == [round(1e9 * gigabytes) - held[0] if left is None else left]
    assert len(patches) > 1


def test_the_original_is_not_changed(tmp_path: Path) -> None:
    model = network()
    before = model.SerializeToString()
    converted(model)
    assert model.SerializeToString() == before
    path = tmp_path / "in.onnx"
    path.write_bytes(before)
    result = converted(path)
    assert path.read_bytes() == before
    assert result.report.input == str(path)


def test_interface_metadata_and_versions_are_kept() -> None:
    model = network(opset=11, ir=6)
    model.metadata_props.add(key="author", value="me")
    model.producer_name = "maker"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    result = model_of(converted(model))
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    assert list(result.opset_import) == list(model.opset_import)
    assert (result.ir_version, result.producer_name) == (6, "maker")
    metadata = {each.key: each.value for each in result.metadata_props}
    assert metadata["author"] == "me"
    assert metadata["onnx_lowrank.target"] == "speedup 2 (macs)"
    assert RankPlan.from_json(metadata["onnx_lowrank.plan"]).matched(find(model, {"x": images(0, 1)})[0])


def test_before_ir_version_4() -> None:
    model = network(opset=8, ir=3)
    result = model_of(converted(model))
    onnx.checker.check_model(result)
    assert [value.name for value in result.graph.input] == ["x", *initializers(result)]


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_what_the_speedup_counts(cost: str) -> None:
    report = converted(network(), cost=cost, speedup=1.8).to_dict()
    assert 1.8 <= report["speedup"][cost] < 1.95


@pytest.mark.parametrize("changes", [{"solver": "linear"}, {"solver": "nonlinear"}, {"asymmetric": False}])
def test_steps_left_out_for_comparison(changes: dict[str, Any]) -> None:
    outputs = converted(network(), **changes).to_dict()["verification"]["outputs"]
    assert outputs["y"]["relative_error"] < 0.1


def test_solving_on_data_beats_the_data_free_factors() -> None:
    plan = converted(network(), method="channel", speedup=2.5, dry_run=True).plan
    x = images(99)
    wanted = run(network(), {"x": x})["y"]
    results = {solver: converted(network(), plan=plan, solver=solver) for solver in ("weights", "linear", "auto")}
    errors = {name: relative(wanted, run(model_of(result), {"x": x})["y"]) for name, result in results.items()}
    assert errors["linear"] < 0.9 * errors["weights"]
    assert errors["auto"] < 0.9 * errors["weights"]


@pytest.mark.parametrize("asymmetric", [True, False])
def test_layers_are_solved_with_what_the_converted_prefix_delivers(
    monkeypatch: pytest.MonkeyPatch, asymmetric: bool
) -> None:
    strayed = {}
    real = pipeline.solve_layer

    def spy(layer: Layer, responses: LayerSamples, *more: Any) -> FactorChain:
        rows = applied(layer, responses.patches.reshape(len(responses.patches), -1))
        strayed[layer.name] = relative(responses.targets.responses, rows)
        return real(layer, responses, *more)

    monkeypatch.setattr(pipeline, "solve_layer", spy)
    ranks = {"conv0": 4, "conv1": 4, "conv3": 6}
    converted(
        network(),
        plan=RankPlan(tuple(LayerPlan(name, "channel", rank) for name, rank in ranks.items())),
        asymmetric=asymmetric,
    )
    assert strayed.keys() == ranks.keys()
    assert strayed["conv0"] < 1e-6
    for name in ("conv1", "conv3"):
        assert (strayed[name] > 0.01) if asymmetric else (strayed[name] < 1e-6)


# Methods, ranks, refinement


@pytest.mark.parametrize("method", [*FACTORIZATIONS, "auto"])
def test_only_the_method_that_is_asked_for(method: str) -> None:
    result = converted(network(), method=method, speedup=2.5)
    found = {layer.method for layer in result.report.layers} - {"kept"}
    assert found
    # A three-way chain that costs more than two of its factors merged gives way to those.
    spatial = {"spatial-channel", "channel", "spatial"}
    allowed = {"auto": {*FACTORIZATIONS}, "spatial-channel": spatial, "tucker": {"tucker", "channel", "input"}}
    assert found <= allowed.get(method, {method})
    x = images(99)
    assert relative(run(network(), {"x": x})["y"], run(model_of(result), {"x": x})["y"]) < 0.1


def test_a_choice_of_methods_does_no_worse_than_any_one_of_them() -> None:
    x = images(99)
    before = run(network(), {"x": x})["y"]
    errors = {}
    for method in ("auto", "channel", "spatial"):
        result = converted(network(), {"x": images(0, 200)}, method=method, speedup=4, samples=180)
        errors[method] = relative(before, run(model_of(result), {"x": x})["y"])
    assert errors["auto"] <= 1.02 * min(errors.values())


@pytest.mark.parametrize("count", [5, 20, 100])
def test_few_images_never_do_worse_than_none(count: int) -> None:
    """At the same ranks, with 5 images, 20 or 100: what is solved on them against what the weights alone say."""
    layers, _ = find(network(), {"x": images(0, 2)})
    plan = RankPlan(
        tuple(
            LayerPlan(layer.name, "spatial-channel", max(2, layer.filters // 2), layer.filters // 2)
            for layer in layers
            if layer.op == "Conv"
        )
    )
    x = images(99, 200)
    before = run(network(), {"x": x})["y"]
    error = {}
    for solver in ("auto", "weights"):
        result = converted(network(), {"x": images(7, count + 5)}, plan=plan, samples=count, solver=solver)
        error[solver] = relative(before, run(model_of(result), {"x": x})["y"])
    assert error["auto"] < error["weights"]


def test_late_layers_count_more_but_not_as_in_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    real = within.select

    def spy(options: Any, budget: float, given: Any) -> Any:
        weights.append(given)
        return real(options, budget, given)

    monkeypatch.setattr(within, "select", spy)
    converted(network(), dry_run=True)
    converted(network(), dry_run=True, method="channel", selection="energy")
    *others, last = weights
    assert others == [depth_weights(4)] * len(others)  # the plan, and what other speedups would lose
    assert len(others) > 1
    assert last is None


def test_refinement_lowers_the_error_on_the_calibration_rows() -> None:
    plan = RankPlan((LayerPlan("conv2", "spatial-channel", 6, 5), LayerPlan("conv3", "spatial", spatial=5)))
    data = {"x": images(0, 200)}
    solved = {}
    for refine in ("none", "fast", "full"):
        report = converted(network(), data, plan=plan, samples=180, refine=refine).report
        solved[refine] = [layer.errors.solved for layer in report.layers if layer.errors is not None]
    assert len(solved["none"]) == 2
    for none, fast, full in zip(*solved.values(), strict=True):
        assert full <= fast <= none
        assert full < 0.995 * none


# Full rank must change nothing


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """A random chain of convolutions with all that exporters put between them."""
    size, channels, lines, weights = 9, 3, [], {}
    tensor = "x"
    channels_last = draw(st.booleans())
    if channels_last:
        lines.append("first = Transpose<perm=[0,3,1,2]>(x)")
        tensor = "first"
    before = ""
    for number in range(draw(st.integers(1, 3))):
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (3, 1)]))
        residual = bool(before) and draw(st.booleans())
        d = channels if residual else draw(st.integers(2, 6))
        place = "same" if residual else draw(st.sampled_from(["same", "pads", "SAME_UPPER", "SAME_LOWER"]))
        strides = [1, 1] if residual else draw(st.sampled_from([[1, 1], [2, 1], [2, 2]]))
        dilation = 1 if place.startswith("SAME") else draw(st.integers(1, 2))
        reach = [(k - 1) * dilation for k in kernel]
        pads = [r // 2 for r in reach] + [r - r // 2 for r in reach]
        if place == "pads":
            pads = [a + draw(st.integers(0, 1)) for a in pads]
        padding = f'auto_pad="{place}"' if place.startswith("SAME") else f"pads={pads}"
        bias = draw(st.booleans())
        weights |= {
            f"w{number}": filters(draw(st.integers(0, 99)), d, channels, *kernel),
            f"b{number}": normal(number, d),
        }
        lines.append(
            f"c{number} = Conv<{padding}, strides={strides}, dilations={[dilation] * 2}>"
            f"({tensor}, w{number}{f', b{number}' if bias else ''})"
        )
        if not bias:
            del weights[f"b{number}"]
        tensor = f"c{number}"
        if draw(st.booleans()):
            parts = {name: f"{name}{number}" for name in ("gamma", "beta", "mean", "var")}
            weights |= {part: normal(7 + index + number, d) for index, part in enumerate(parts.values())}
            weights[parts["var"]] = 0.5 + weights[parts["var"]] ** 2
            lines.append(f"n{number} = BatchNormalization({tensor}, {', '.join(parts.values())})")
            tensor = f"n{number}"
        if residual:
            lines.append(f"s{number} = Add({tensor}, {before})")
            tensor = f"s{number}"
        activation = draw(st.sampled_from(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "swish", ""]))
        if activation == "swish":
            lines += [f"g{number} = Sigmoid({tensor})", f"r{number} = Mul({tensor}, g{number})"]
        elif activation:
            lines.append(f"r{number} = {activation}({tensor})")
        tensor = f"r{number}" if activation else tensor
        before, channels = tensor, d
    lines.append(f"y = Transpose<perm=[0,2,3,1]>({tensor})" if channels_last else f"y = Identity({tensor})")
    shape = f"N,{size},{size},3" if channels_last else f"N,3,{size},{size}"
    text = f"g (float[{shape}] x) => (float[N,e,f,h] y) {{\n" + "\n".join(lines) + "\n}"
    opset = draw(st.sampled_from([9, 11, 13, 17, 21]))
    x = normal(draw(st.integers(0, 99)), 8, *([size, size, 3] if channels_last else [3, size, size]))
    return build(text, weights, opset=opset), x


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from(FACTORIZATIONS))
def test_full_rank_reproduces_any_network(case: tuple[onnx.ModelProto, Array], method: str) -> None:
    model, x = case
    before = run(model, {"x": x})["y"]
    assume(np.linalg.norm(before) > 0)
    result = converted(model, {"x": x}, plan=full_rank(model, {"x": x}, method), samples=6)
    assert relative(before, run(model_of(result), {"x": x})["y"]) < 1e-5
    onnx.checker.check_model(model_of(result), full_check=True)


def test_full_rank_with_two_inputs_and_a_subgraph() -> None:
    model = build(
        f"""g (float[N,3,12,12] x, float[N,2,12,12] z) => (float[N,4,12,12] y) {{
            a = Conv<{SAME}>(x, w0)  ra = Relu(a)
            b = Conv<{SAME}>(z, w1)  rb = Relu(b)
            m = ReduceMax<keepdims=0>(z)  flag = Greater(m, low)
            o = If (flag) <
                then_branch = t () => (float[N,4,12,12] t_out) {{ t_out = Add(ra, rb) }},
                else_branch = e () => (float[N,4,12,12] e_out) {{ e_out = Sub(ra, rb) }}
            >
            y = Conv<{SAME}>(o, w2)
        }}""",
        {
            **{"w0": filters(0, 4, 3, 3, 3), "w1": filters(1, 4, 2, 3, 3), "w2": filters(2, 4, 4, 3, 3)},
            "low": np.float32(-1e9),
        },
    )
    feeds = {"x": images(0, 8), "z": normal(1, 8, 2, 12, 12)}
    result = converted(model, feeds, plan=full_rank(model, feeds), samples=6)
    assert relative(run(model, feeds)["y"], run(model_of(result), feeds)["y"]) < 1e-5


def test_float16_models_stay_float16() -> None:
    model = build(
        f"g (float16[N,3,12,12] x) => (float16[N,8,12,12] y) {{ c = Conv<{SAME}>(x, w, b)  y = Relu(c) }}",
        {"w": filters(0, 8, 3, 3, 3, np.float16), "b": normal(1, 8, dtype=np.float16)},
    )
    x = images(0, 8).astype(np.float16)
    result = model_of(converted(model, {"x": x}, plan=full_rank(model, {"x": x}), samples=6))
    assert {value.dtype for value in initializers(result).values()} == {np.dtype(np.float16)}
    assert relative(run(model, {"x": x})["y"], run(result, {"x": x})["y"]) < 3e-3


# The same every time


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        converted(network(), seed=seed, output=tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_the_batch_size_does_not_matter() -> None:
    results = [converted(network(), batch_size=size) for size in (1, 7, 30)]
    assert results[0].plan.to_json() == results[1].plan.to_json() == results[2].plan.to_json()
    x = images(99)
    first, *others = [run(model_of(result), {"x": x})["y"] for result in results]
    for other in others:
        assert relative(first, other) < 1e-4


def test_a_model_of_batch_size_one_is_converted_like_one_of_open_size() -> None:
    """The same samples are drawn, so ranks are the same and, to rounding, the weights."""
    results = [converted(model) for model in (network(batch="1"), network())]
    assert results[0].plan.to_json() == results[1].plan.to_json()
    assert results[0].report.macs == results[1].report.macs
    x = images(99, 1)
    assert relative(*(run(model_of(result), {"x": x})["y"] for result in results)) < 1e-4


def test_a_model_of_fixed_batch_size_is_converted_as_well_as_one_of_open_size() -> None:
    """Other samples are drawn, since those of a batch stay together, but as many."""
    assert converted(network(batch="3")).report.speedup >= 2
    free = converted(network())
    fixed = converted(network(batch="3"), plan=free.plan)  # other samples may get other ranks
    assert fixed.report.macs == free.report.macs
    x = images(99, 3)
    wanted = run(network(), {"x": x})["y"]
    error, free_error = (relative(wanted, run(model_of(result), {"x": x})["y"]) for result in (fixed, free))
    assert 0 < error < 1.2 * free_error


def test_channels_last_input() -> None:
    """The same network behind a transpose gets the same ranks and, to rounding, the same weights."""
    model = network()
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    turned.graph.node.insert(0, onnx.helper.make_node("Transpose", ["nhwc"], ["x"], perm=[0, 3, 1, 2]))
    turned.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("nhwc", 1, ["N", 12, 12, 3]))
    plain, other = converted(model), converted(turned, {"nhwc": images(0).transpose(0, 2, 3, 1)})
    assert plain.plan.to_json() == other.plan.to_json()
    x = images(99)
    nhwc = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    assert relative(run(model_of(plain), {"x": x})["y"], run(model_of(other), {"nhwc": nhwc})["y"]) < 1e-4


def test_batches_paths_and_arrays_are_the_same_data(tmp_path: Path) -> None:
    x = images(0)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    sources = [x, {"x": x}, [{"x": x[:15]}, {"x": x[15:]}], str(tmp_path / "x.npy"), tmp_path / "x.npz"]
    models = [model_of(converted(network(), data)).SerializeToString() for data in sources]
    assert all(model == models[0] for model in models)


# Plans


def test_a_dry_run_plans_what_the_real_run_does(tmp_path: Path) -> None:
    planned = converted(network(), dry_run=True, output=tmp_path / "out.onnx")
    real = converted(network())
    assert planned.model is None
    assert list(tmp_path.iterdir()) == []
    assert planned.plan == real.plan
    assert planned.report.macs == real.report.macs
    assert planned.to_dict()["verification"] is None
    with pytest.raises(ValueError, match="a dry run has no model to save"):
        planned.save(tmp_path / "out.onnx")


def test_a_plan_can_be_used_again() -> None:
    first = converted(network())
    again = converted(network(), plan=RankPlan.from_json(first.plan.to_json()))
    assert again.to_dict()["speedup"]["requested"] is None
    before, after = initializers(model_of(first)), initializers(model_of(again))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_a_plan_for_another_model() -> None:
    with pytest.raises(
        RankError, match="plan: no layer 'elsewhere' that can be factorized, the model has conv0, conv1"
    ):
        converted(network(), plan=RankPlan((LayerPlan("elsewhere", "channel", 3),)))


def test_saving_later(tmp_path: Path) -> None:
    result = converted(network())
    result.save(tmp_path / "later.onnx")
    assert onnx.load(tmp_path / "later.onnx") == result.model
    with pytest.raises(OutputError, match="folder .*nowhere' does not exist: make it first"):
        result.save(tmp_path / "nowhere" / "later.onnx")


def test_nothing_is_overwritten_unless_it_is_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    out.write_bytes(b"mine")
    plan.write_bytes(b"old")
    result, exists = (
        converted(network()),
        r"out\.onnx: exists already: choose another name, or overwrite it with `force`",
    )
    with pytest.raises(OutputError, match=exists):
        result.save(out)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "collect_targets", lambda *_: pytest.fail("collected before"))
        with pytest.raises(OutputError, match=exists):
            converted(network(), output=out)
    assert out.read_bytes() == b"mine"
    converted(network(), output=OutputFiles(out, plan=plan), force=True)  # plans and reports replace older ones
    assert onnx.load(out).graph == result.model.graph if result.model else False
    assert RankPlan.from_json(plan.read_text()).to_json() == result.plan.to_json()
    out.write_bytes(b"mine")
    result.save(out, force=True)
    onnx.checker.check_model(out)


# Which layers


def methods(result: Result) -> dict[str, str]:
    return {layer.name: layer.method for layer in result.report.layers}


def test_include_and_exclude() -> None:
    speedup = 1.2
    kept = {
        name
        for name, method in methods(converted(network(), include=["conv[12]"], speedup=speedup)).items()
        if method == "kept"
    }
    assert {"conv0", "conv3", "y"} <= kept < {"conv0", "conv1", "conv2", "conv3", "y"}
    kept = {
        name
        for name, method in methods(converted(network(), exclude=["conv3", "0$"], speedup=speedup)).items()
        if method == "kept"
    }
    assert {"conv0", "conv3", "y"} <= kept < {"conv0", "conv1", "conv2", "conv3", "y"}
    both = converted(network(), include=["conv"], exclude=["conv[013]"], speedup=speedup)
    assert {name for name, method in methods(both).items() if method != "kept"} == {"conv2"}


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_expressions_that_match_nothing_or_are_none(option: str) -> None:
    with pytest.raises(
        ModelError, match=rf"`{option}` 'features': matches none of the 5 layers \(conv0, conv1, conv2, \.\.\.\)"
    ):
        converted(network(), **{option: ["features"]})
    with pytest.raises(ModelError, match=rf"`{option}` 'conv\(': not a regular expression"):
        converted(network(), **{option: ["conv("]})


def test_no_layer_left() -> None:
    why = r"no layer can be factorized \('y': 30 rows of samples are too few.*; 'conv0', 'conv1' and 2 others: "
    with pytest.raises(ModelError, match=why):
        converted(network(), exclude=["conv"])


def test_a_model_with_nothing_to_factorize() -> None:
    cube = build("g (float[N,3,4] x) => (float[N,3,2] y) { y = MatMul(x, w) }", {"w": normal(0, 3, 4, 2)})
    with pytest.raises(ModelError, match=r"no layer can be factorized \('y': its weight has 3 axes"):
        converted(cube, {"x": normal(1, 40, 3, 4)})
    none = build("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(
        ModelError, match="<model>: no Conv, ConvTranspose, Gemm or MatMul in the graph: there is nothing to factorize"
    ):
        converted(none, {"x": normal(1, 40, 4)})


# What goes wrong


@pytest.mark.parametrize("speedup", [1, 0.5, -2, float("nan"), float("inf")])
def test_speedups_that_are_none(speedup: float) -> None:
    with pytest.raises(BudgetError, match=r"speedup: got .*, wanted a number above 1: try `speedup=4`"):
        converted(network(), speedup=speedup)


def test_a_speedup_out_of_reach_names_the_largest_that_is_not() -> None:
    with pytest.raises(
        BudgetError, match=r"speedup 1000 cannot be reached, the largest that can is \d+\.\d\d "
    ) as caught:
        converted(network(), speedup=1000, dry_run=True)
    largest = float(str(caught.value).partition("can is ")[2].split()[0])
    assert converted(network(), speedup=largest - 0.01, dry_run=True).report.speedup == pytest.approx(largest, abs=0.02)
    with pytest.raises(BudgetError):
        converted(network(), speedup=largest + 0.01, dry_run=True)


def test_unknown_settings() -> None:
    with pytest.raises(TypeError, match=r"no setting 'speed_up': did you mean 'speedup'\?$"):
        converted(network(), speed_up=2)
    with pytest.raises(TypeError, match=r"no setting 'quality'$"):
        converted(network(), quality=2)
    with pytest.raises(TypeError, match=r"no setting 'mean': pass preprocessing=Preprocessing\(mean=...\)"):
        converted(network(), mean=127)
    with pytest.raises(ValueError, match="cost must be one of macs, latency, params, got 'joules'"):
        converted(network(), cost="joules")
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        converted(network(), samples=0)


def test_too_few_samples() -> None:
    with pytest.raises(CalibrationError, match="40 usable samples, wanted 50: add samples or lower `samples`"):
        converted(network(), samples=50)


def test_data_that_are_not_finite() -> None:
    x = images(0)
    x[:, 0, 0, 0] = np.nan
    with pytest.raises(CalibrationError, match=r"input 'x': sample \d+ holds NaN or Inf"):
        converted(network(), {"x": x})


def test_weights_that_are_not_finite() -> None:
    model = network()
    weights = initializers(model)["w1"].copy()
    weights[0, 0, 0, 0] = np.inf
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights, "w1"))
    with pytest.raises(CalibrationError, match="Conv 'conv1': its response is NaN, infinite or beyond 1e.15 in the"):
        converted(model)


LAST_CONVOLUTION: dict[str, Any] = {"include": ["conv3"], "speedup": 1.1}


def break_factors(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Have the solver deliver weights times ``factor`` for the last factor of every layer."""
    real = pipeline.solve_layer

    def broken(*arguments: Any) -> FactorChain:
        factors = real(*arguments)
        *first, last = factors.convolutions
        return FactorChain((*first, Convolution(last.weight * factor, last.bias, last.geometry)), factors.errors)

    monkeypatch.setattr(pipeline, "solve_layer", broken)


def test_a_model_that_is_far_off_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_factors(monkeypatch, -9.0)
    found = r"same top class 0\.\d \(relative error \d.*\) on 10 held-out samples"
    message = rf"output 'y': {found}, at least 0\.5 is wanted: lower `speedup` or add samples; nothing was written"
    with pytest.raises(VerificationError, match=message):
        converted(network(), output=tmp_path / "out.onnx", **LAST_CONVOLUTION)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.onnx").write_bytes(b"old")
    with pytest.raises(VerificationError):
        converted(network(), output=tmp_path / "out.onnx", force=True, **LAST_CONVOLUTION)
    assert (tmp_path / "out.onnx").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_outputs_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    break_factors(monkeypatch, 1e38)
    with pytest.raises(VerificationError, match="output 'y': relative error (nan|inf) on 10 held-out samples"):
        converted(network(), **LAST_CONVOLUTION)


def test_a_graph_that_is_not_as_planned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.runtime.network.replace_layer", lambda *_, **__: None)
    with pytest.raises(VerificationError, match=r"written model: \d+ multiply-adds, the plan makes \d+"):
        converted(network(), output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnx_lowrank.verify.conversion.compare_outputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converted(network(), output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "collect_targets", lambda *_: pytest.fail("collected before"))
    with pytest.raises(OutputError, match="folder .*nowhere' does not exist: make it first"):
        converted(network(), output=tmp_path / "nowhere" / "out.onnx")
    with pytest.raises(OutputError, match="is a folder"):
        converted(network(), output=tmp_path)


def test_without_samples_to_verify_with_there_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        converted(network(), {"x": images(0, 30)})
    assert "no samples left to verify with" in caplog.text


def test_class_indices_among_the_outputs_are_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.network()
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("class", onnx.TensorProto.INT64, ["N"]))
    far = {"scores": OutputFidelity(0.1, 0.99, 0.9), "class": OutputFidelity(7.0, 0.5, None)}
    monkeypatch.setattr("onnx_lowrank.verify.conversion.compare_outputs", lambda *_: Comparison(far, None, 8))
    assert convert(model, small.images(), speedup=2).report.verification is not None
    far["scores"] = OutputFidelity(7.0, 0.5, 0.1)
    with pytest.raises(VerificationError, match=r"output 'scores': same top class 0\.1 \(relative error 7\)"):
        convert(model, small.images(), speedup=2)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("solver", "auto, nonlinear, linear, weights, paper"),
        ("refine", "none, fast, full"),
        ("selection", "error, energy"),
    ],
)
def test_choices_there_are_not(setting: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be one of {allowed}, got 'magic'"):
        convert(small.network(), small.images(), **{setting: "magic"})


@pytest.mark.parametrize("method", ["magic", "channel,width", ("channel", "magic"), ("auto", "width"), ()])
def test_methods_there_are_not(method: Any) -> None:
    wanted = "method must be auto, or one or several of channel, spatial, spatial-channel, input, tucker, width"
    with pytest.raises(ValueError, match=re.escape(f"{wanted}, got {method!r}")):
        Settings(method=method)


@pytest.mark.parametrize("method", ["auto", "spatial"])
def test_energy_says_nothing_about_spatial_ranks(method: str) -> None:
    with pytest.raises(ValueError, match=f"selection 'energy' knows channel ranks only, got method '{method}'"):
        convert(small.network(), small.images(), selection="energy", method=method)


def test_batches_are_as_large_as_the_provider_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples this small."""
    monkeypatch.setattr(Provider, "batch_elements", 7 * 6_250)
    sizes: list[int] = []
    read = iterate_batches

    def noted(samples: Any, indices: Any, batch_size: int) -> Any:
        sizes.append(batch_size)
        return read(samples, indices, batch_size)

    monkeypatch.setattr("onnx_lowrank.commands.compare.iterate_batches", noted)
    settings = Settings(provider="cpu", samples=28)
    assert open_conversion(network(), {"x": images(0)}, preset("raw"), settings)[2].split.batch_size == 7
    model = network()
    compare(model, model, {"x": images(0)}, provider="cpu")
    assert sizes == [7]
