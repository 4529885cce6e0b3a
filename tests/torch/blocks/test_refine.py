"""Blocks of layers that are trained together, in whole conversions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from onnx_lowrank import LayerPlan, RankPlan, Result, convert, pipeline
from onnx_lowrank.calibrate import split
from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.errors import ModelError
from onnx_lowrank.torch.blocks import refine, train
from tests.helpers import Array, build, filters, normal, plain_network, relative, run
from tests.networks import images, network
from tests.torch.pairs import weights_of

QUICK: dict[str, Any] = {"bench": False, "provider": "cpu", "threads": 1, "rank_multiple": 1}
UNSEEN = images(64, 8, seed=7)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[CalibrationSet]:
    """Samples of the refinements that follow."""
    given: list[CalibrationSet] = []
    real = refine.refine_blocks

    def watched(one: Any, other: Any, calibration: CalibrationSet, *rest: Any) -> Any:
        given.append(calibration)
        return real(one, other, calibration, *rest)

    monkeypatch.setattr(refine, "refine_blocks", watched)
    return given


def plain(refinement: str, **changes: Any) -> Result:
    methods = "channel", "spatial", "spatial-channel"  # they leave these layers most to gain
    settings: dict[str, Any] = {"speedup": 4, "method": methods, "refine": refinement, **QUICK, **changes}
    return convert(plain_network(5), {"x": images(100, 8)}, samples=80, **settings)


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_STEPS", 24)
        patch.setattr(split, "_MIN_REFINEMENT_SAMPLES", 4)  # networks as small as these gain by few
        yield


@pytest.fixture(scope="module")
def refined() -> Result:
    return plain("full")


def loss(result: Result, model: onnx.ModelProto, x: Array, output: str) -> float:
    assert result.model is not None
    return relative(run(model, {"x": x})[output], run(result.model, {"x": x})[output])


def test_the_report_has_the_error_of_every_block(refined: Result) -> None:
    blocks = refined.report.to_dict()["blocks"]
    layers = [name for block in blocks for name in block["layers"]]
    assert layers == [layer.name for layer in refined.report.layers if layer.method != "kept"]
    assert all(2 <= len(block["layers"]) <= 4 for block in blocks)
    assert all(block["after"] <= block["before"] for block in blocks)
    assert any(block["after"] < 0.98 * block["before"] for block in blocks)
    assert refined.report.seconds["refine"] > 0
    assert refined.report.calibration.images == 72  # a tenth is set aside
    assert "blocks" not in plain("none").report.to_dict()


def test_what_was_not_converted_keeps_its_bytes() -> None:
    plan = RankPlan((LayerPlan("c2", "channel", 6), LayerPlan("c3", "channel", 6)))
    result = plain("full", plan=plan)
    assert result.model is not None
    before, after = weights_of(plain_network(5)), weights_of(result.model)
    assert {"w0", "w1", "w4"} <= after.keys()
    for name in before.keys() & after.keys():
        np.testing.assert_array_equal(before[name], after[name])
    assert [block.layers for block in result.report.blocks] == [("c2", "c3")]


def test_the_same_seed_gives_the_same_file(refined: Result) -> None:
    again = plain("full")
    assert again.model is not None
    assert refined.model is not None
    assert again.model.SerializeToString() == refined.model.SerializeToString()


def test_nothing_is_kept_that_makes_the_outputs_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is made worse on purpose here, and said to be better."""
    real = refine.train_block

    def worse(*words: Any) -> Any:
        trained = real(*words)
        return replace(trained, after=0.5 * trained.before, weights={k: 1.5 * v for k, v in trained.weights.items()})

    monkeypatch.setattr(refine, "train_block", worse)
    result = plain("full", plan=RankPlan((LayerPlan("c2", "channel", 6), LayerPlan("c3", "channel", 6))))
    monkeypatch.setattr(pipeline, "with_refined_blocks", lambda converted, *_: converted)
    kept = plain("full", plan=result.plan)
    assert result.model is not None
    assert kept.model is not None
    assert result.model.SerializeToString() == kept.model.SerializeToString()
    assert all(block.after == block.before for block in result.report.blocks)


def test_a_full_rank_network_has_nothing_to_gain() -> None:
    ranks = RankPlan(tuple(LayerPlan(f"c{number}", "channel", 32) for number in range(1, 5)))
    result = plain("full", plan=ranks)
    assert loss(result, plain_network(5), UNSEEN, "y") < 1e-4
    assert all(block.after == block.before for block in result.report.blocks)


def test_widths_and_residual_sums() -> None:
    model = build(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] s2) {
            a1 = Conv(x, v1, p1)  r1 = Relu(a1)  b1 = Conv(r1, w1)  s1 = Add(b1, x)
            a2 = Conv(s1, v2, p2)  r2 = Relu(a2)  b2 = Conv(r2, w2)  s2 = Add(b2, s1)
        }""",
        {
            **{f"v{n}": filters(n, 64, 16, 1, 1) for n in (1, 2)},
            **{f"p{n}": normal(n, 64) for n in (1, 2)},
            **{f"w{n}": filters(n + 5, 16, 64, 1, 1) for n in (1, 2)},
        },
    )
    x = images(200, 8, channels=16)
    chosen = {"speedup": 2, "method": "width", "samples": 160, **QUICK}
    alone = convert(model, {"x": x}, refine="fast", **chosen)
    result = convert(model, {"x": x}, refine="full", plan=alone.plan, **{**chosen, "speedup": 4})
    assert [block.tensors for block in result.report.blocks] == [("s1",), ("s2",)]
    unseen = images(64, 8, channels=16, seed=7)
    assert loss(result, model, unseen, "s2") < loss(alone, model, unseen, "s2")
    assert result.report.macs == alone.report.macs


def test_sizes_computed_before_a_block_stay_sizes_in_it() -> None:
    """PyTorch's exporter computes the batch size at the front and flattens by it at the end."""
    convolutions = "".join(f"c{n} = Conv<pads=[1,1,1,1]>(r{n - 1}, w{n})  r{n} = Relu(c{n})  " for n in range(6))
    text = f"""g (float[N,3,8,8] x) => (float[N,10] y) {{
        shape = Shape(x)  count = Gather(shape, first)
        {convolutions.replace("r-1", "x")}
        pool = GlobalAveragePool(r5)  one = Unsqueeze(count, axes)  wanted = Concat<axis=0>(one, rest)
        flat = Reshape(pool, wanted)  y = Gemm(flat, f)
    }}"""
    numbers = {"first": np.int64(0), "axes": np.int64([0]), "rest": np.int64([-1]), "f": normal(0, 32, 10)}
    model = build(text, {**weights_of(plain_network(6)), **numbers})
    plan = RankPlan(tuple(LayerPlan(f"c{n}", "channel", 8) for n in range(1, 6)))
    result = convert(model, {"x": images(100, 8)}, plan=plan, samples=80, refine="full", **QUICK)
    first, second = result.report.blocks
    assert (*first.layers, *second.layers) == ("c1", "c2", "c3", "c4", "c5")
    assert second.tensors == ("y",)
    assert second.before is not None


def test_an_operator_that_pytorch_lacks_leaves_its_block_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = refine.to_torch

    def lacking(part: onnx.ModelProto, *words: Any) -> Any:
        if part.graph.input[0].name == "x":
            raise ModelError("operator 'Fold' cannot be converted")
        return real(part, *words)

    monkeypatch.setattr(refine, "to_torch", lacking)
    caplog.set_level(logging.INFO)
    first, *others = plain("full").report.blocks
    assert f"block that ends in '{first.tensors[0]}' is not refined: operator 'Fold' cannot be converted" in caplog.text
    assert (first.before, first.after, first.refined) == (None, None, False)
    assert any(block.refined for block in others)


def test_too_few_samples_are_said_before_the_work_begins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(split, "_MIN_REFINEMENT_SAMPLES", 20)
    result = convert(network(), {"x": images(220)}, speedup=1.2, samples=199, refine="full", **QUICK)
    assert "199 samples are too few to train on some and judge by others: pass more, 200 or so" in caplog.text
    assert result.report.blocks == ()
    assert result.report.calibration.images == 199


@pytest.mark.parametrize(("batch", "wanted"), [("N", 40), ("3", 60), ("16", 160)])
def test_as_many_samples_as_are_asked_for_are_enough(batch: str, wanted: int, caplog: pytest.LogCaptureFixture) -> None:
    x = {"x": images(wanted + 32)}
    settings = {"speedup": 1.2, "refine": "full", "solver": "weights", **QUICK}
    step = 1 if batch == "N" else int(batch)
    few = convert(network(batch), x, samples=wanted - step, **settings)
    assert f"others: pass more, {wanted} or so" in caplog.text
    assert few.report.blocks == ()
    assert convert(network(batch), x, samples=wanted, **settings).report.blocks


def test_blocks_begin_with_what_the_converted_network_delivers(
    seen: list[CalibrationSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the error of the last block, which ends in the output, is that of the whole network, untrained here."""
    monkeypatch.setattr(train, "_RATES", ())
    result = plain("full")
    *_, last = result.report.blocks
    samples = seen[0].samples.read(seen[0].split.refinement)["x"]
    assert last.tensors == ("y",)
    assert last.before == pytest.approx(loss(result, plain_network(5), samples, "y"), rel=1e-3)


@pytest.mark.parametrize("package", ["torch", "accelerate"])
def test_without_part_of_the_extra_layers_are_refined_one_by_one(
    missing: Callable[[str], None], caplog: pytest.LogCaptureFixture, package: str
) -> None:
    missing(package)
    result = convert(network(), {"x": images(60)}, speedup=1.2, samples=50, refine="full", **QUICK)
    assert "several together only with PyTorch: pip install 'onnx-lowrank[torch]'" in caplog.text
    assert result.report.blocks == ()
    assert result.report.calibration.images == 50


@pytest.mark.parametrize("batch", ["4", "N"])
def test_fixed_batches_stay_whole(batch: str, seen: list[CalibrationSet]) -> None:
    result = convert(network(batch), {"x": images(110)}, speedup=1.3, samples=100, refine="full", **QUICK)
    assert len(seen[0].split.refinement) == (8 if batch == "4" else 10)
    assert set(seen[0].split.refinement).isdisjoint(seen[0].split.calibration)
    assert set(seen[0].split.refinement).isdisjoint(seen[0].split.held_out)
    assert result.report.blocks
