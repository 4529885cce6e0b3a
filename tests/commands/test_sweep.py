"""Several targets from one calibration: the same as as many conversions, for less."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from onnx_lowrank import LayerPlan, RankPlan, Sweep, convert, interruption, pipeline, sweep
from onnx_lowrank.commands import sweep_solving
from onnx_lowrank.errors import BudgetError, CalibrationError, OutputError, VerificationError
from onnx_lowrank.linalg.threads import allowed
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve.device import SolverDevice
from tests.helpers import plain_network, relative, run, samples_of, set_clock, work
from tests.networks import images, network

HOW: dict[str, Any] = {"bench": False, "provider": "cpu", "threads": 1}
X = images()


def swept(speedups: tuple[float, ...] = (1.5, 2, 3), **changes: Any) -> Sweep:
    return sweep(network(), {"x": X}, speedups, **(HOW | changes))


@pytest.mark.parametrize("threads", [1, 2])
def test_every_model_is_the_one_that_a_conversion_makes(threads: int) -> None:
    found = swept(models=True, threads=threads)
    assert [point.requested for point in found.report.points] == [1.5, 2, 3]
    for point, result in zip(found.report.points, found.results, strict=True):
        alone = convert(network(), {"x": X}, speedup=point.requested, **(HOW | {"threads": threads}))
        assert alone.model is not None
        assert result.model is not None
        assert result.model.SerializeToString() == alone.model.SerializeToString()
        assert (point.macs, point.parameters) == (alone.report.macs[1], alone.report.parameters[1])
        assert alone.report.verification is not None
        assert point.outputs == alone.report.verification["outputs"]
        assert result.report.layers == alone.report.layers
        assert result.to_html().startswith("<!DOCTYPE html>")


def test_the_original_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, real: Any, *args: Any, **named: Any) -> Any:
        calls.append(name)
        return real(*args, **named)

    for name in ("collect_targets", "measure_rank_losses", "solve_layer"):
        monkeypatch.setattr(pipeline, name, partial(counted, name, getattr(pipeline, name)))
    swept((1.5, 2, 3, 4))
    assert (calls.count("collect_targets"), calls.count("measure_rank_losses")) == (1, 3)  # once a layer
    assert calls.count("solve_layer") >= 8


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_two_targets_are_solved_at_a_time(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Each with its share of the threads and of the memory."""
    real, at_work, seen = sweep_solving.solve_network, threading.Barrier(min(2, threads)), []

    def noted(network: Any, *given: Any) -> Any:
        settings = next(each for each in given if isinstance(each, Settings))
        at_work.wait(timeout=30)
        seen.append((network.provider.threads, allowed(), settings.memory))
        return real(network, *given)

    monkeypatch.setattr(sweep_solving, "solve_network", noted)
    found = swept((1.5, 2, 2.5, 3), threads=threads, memory=1)
    assert [point.requested for point in found.report.points] == [1.5, 2, 2.5, 3]
    share = {1: 1, 2: 1, 5: 2}[threads]
    assert {each[:2] for each in seen} == {(share, share)}
    bounds = [memory for *_, memory in seen]
    assert bounds == ([1] * 4 if threads == 1 else [pytest.approx(0.5, abs=0.01)] * 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_target_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    real = sweep_solving.solve_network

    def failing(*given: Any) -> Any:
        settings = next(each for each in given if isinstance(each, Settings))
        if settings.speedup == 2:
            raise CalibrationError("the disk is full")
        return real(*given)

    monkeypatch.setattr(sweep_solving, "solve_network", failing)
    points = swept((1.5, 2, 3), threads=threads).report.points
    assert [point.error for point in points] == [None, "the disk is full", None]


def test_an_interruption_ends_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a program that does not listen to signals as the command line does."""
    ended = []

    def endless(*given: Any) -> Any:
        settings = next(each for each in given if isinstance(each, Settings))
        if settings.speedup == 1.5:
            raise KeyboardInterrupt
        with suppress(KeyboardInterrupt):
            while True:
                interruption.check()
                time.sleep(0.01)
        ended.append(settings.speedup)

    monkeypatch.setattr(sweep_solving, "solve_network", endless)
    with pytest.raises(KeyboardInterrupt):
        swept((1.5, 2, 3), threads=2)
    assert set(ended) <= {2, 3}
    assert not interruption_is_pending()


def interruption_is_pending() -> bool:
    try:
        interruption.check()
    except KeyboardInterrupt:
        return True
    return False


def test_points_in_numbers() -> None:
    found = swept((3, 1.5, 3, 2)).to_dict()
    assert {key: found[key] for key in ("schema", "seed", "input", "cost", "held_out", "latency")} == {
        **{"schema": 1, "seed": 0, "input": "<model>", "cost": "macs", "held_out": 12, "latency": None},
    }
    assert found["original"]["accuracy"] is found["original"]["milliseconds"] is None
    assert found["calibration"]["images"] == 48
    points = found["points"]
    assert [point["speedup"]["requested"] for point in points] == [1.5, 2, 3]
    for point in points:
        speedup = point["speedup"]
        assert speedup["macs"] == pytest.approx(found["original"]["macs"] / point["macs"], rel=1e-12, abs=0)
        assert speedup["macs"] >= speedup["requested"]
        assert speedup["params"] == pytest.approx(found["original"]["params"] / point["params"], rel=1e-12, abs=0)
        assert speedup["latency"] is point["milliseconds"] is point["accuracy"] is point["model"] is None
        assert list(point["outputs"]) == ["scores"]
        assert point["seconds"] > 0
        assert point["error"] is None
    assert sum(point["seconds"] for point in points) < found["seconds"]


def test_points_are_those_of_conversions_where_images_are_few() -> None:
    for refine in ("fast", "none"):
        quick = swept(refine=refine)
        assert (quick.report.refine, quick.report.solved_images) == (refine, 48)
        assert quick.report.quick == (refine == "none")
        assert quick.results == ()
        alone = convert(network(), {"x": X}, speedup=2, refine=refine, **HOW).report.verification
        assert alone is not None
        assert quick.report.points[1].outputs == alone["outputs"]


def test_quick_points_take_half_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[int, int]] = []
    real = pipeline.solve_layer

    def watched(layer: Any, responses: Any, *args: Any) -> Any:
        targets = responses.targets
        rows.append((len(targets.responses), len(responses.patches)))
        again = layer.activation(targets.responses + (0 if targets.residual is None else targets.residual))
        assert again.shape == targets.responses.shape
        return real(layer, responses, *args)

    monkeypatch.setattr(pipeline, "solve_layer", watched)
    model, data = plain_network(convolutions=3), images(260, 8)
    found = sweep(model, data, (2,), samples=200, positions=10, **HOW)
    assert (found.report.calibration.images, found.report.solved_images, found.report.held_out) == (200, 100, 60)
    assert found.report.quick
    assert set(rows) == {(1000, 1000)}


def test_half_of_the_images_are_the_first_ones() -> None:
    """Rows, positions and images still belong together: at full rank the network comes out as it was."""
    model, data = plain_network(convolutions=2), images(260, 8)
    settings, monitor = Settings(samples=200, **HOW), Monitor()
    original, layers, calibration = pipeline.open_conversion(model, data, None, settings)
    targets = pipeline.collect(original, layers, calibration, monitor)
    losses = pipeline.rank_losses(layers, targets, calibration.images, settings, SolverDevice(), monitor)
    half = calibration.with_half_the_images(layers.eligible)
    assert (calibration.images, half.images) == (200, 100)
    ranks = {"c0": 27, "c1": 32}
    plan = RankPlan(tuple(LayerPlan(layer.name, "channel", channel=ranks[layer.name]) for layer in layers.eligible))
    rows = half.rows_of(targets)
    solved = pipeline.solve_network(
        original, layers, losses, plan, half, rows, settings, monitor, SolverDevice()
    ).solved
    assert relative(run(model, {"x": data})["y"], run(solved, {"x": data})["y"]) < 1e-3


def test_a_target_out_of_reach_does_not_stop_the_others() -> None:
    found = swept((2, 900)).to_dict()["points"]
    assert found[0]["error"] is None
    assert found[1]["error"].startswith("speedup 900 cannot be reached, the largest that can is ")
    assert found[1]["on_front"] is False
    assert found[1]["macs"] is found[1]["outputs"] is found[1]["speedup"]["macs"] is None
    assert found[1]["speedup"]["requested"] == 900


def test_where_none_can_be_reached_there_is_an_error() -> None:
    with pytest.raises(BudgetError, match="speedup 800 cannot be reached"):
        swept((900, 800))


def test_where_none_is_good_enough_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.verify.fidelity.WORST_ERROR", 0.0)
    monkeypatch.setattr("onnx_lowrank.verify.fidelity.WORST_AGREEMENT", 1.1)
    with pytest.raises(VerificationError, match="output 'scores': same top class"):
        swept((2, 3))


@pytest.mark.parametrize("speedup", [1, 0.5, float("nan"), float("inf")])
def test_speedups_that_are_none(speedup: float) -> None:
    with pytest.raises(BudgetError, match="wanted a number above 1"):
        swept((2, speedup))


def test_no_speedups() -> None:
    with pytest.raises(
        BudgetError, match=r"speedups: none given, wanted some numbers above 1: try `speedups=\[2, 3, 4, 5\]`"
    ):
        swept(())


def test_files_that_are_there_are_replaced_only_when_forced(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("mine")
    with pytest.raises(OutputError, match=r"sweep\.json: exists already: choose another name, or .* with `force`"):
        swept((2,), output=tmp_path)
    assert (tmp_path / "sweep.json").read_text() == "mine"
    swept((2,), output=tmp_path, force=True)
    assert (tmp_path / "sweep.json").read_text().startswith("{")


@pytest.mark.parametrize("changes", [{"max_drop": 0.1}, {"plan": RankPlan(())}])
def test_other_targets_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave plan and max_drop out"):
        swept(**changes)


def test_all_networks_are_timed_in_turns_with_one_original(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = set_clock(monkeypatch, tmp_path, lambda model: 1.0 + sum(each.macs for each in work(model)) / 1e5)
    model = plain_network()
    found = sweep(model, images(60, 8), (2, 3), rank_multiple=1, **(HOW | {"bench": True}))
    assert [len(models) for models in clock.networks[-1:]] == [3]
    assert found.report.milliseconds == pytest.approx(1 + found.report.macs / 1e5, rel=1e-9, abs=0)
    for point in found.report.points:
        assert point.macs is not None
        assert point.milliseconds == pytest.approx(1 + point.macs / 1e5, rel=1e-9, abs=0)
        assert point.speedups is not None
        wanted = found.report.milliseconds / (1 + point.macs / 1e5)
        assert point.speedups["latency"] == pytest.approx(wanted, rel=1e-9, abs=0)
    runtime = {"name": "onnxruntime", "version": onnxruntime.__version__, "precision": "f32", "threads": 1}
    assert found.report.latency == {"batch": 1, "threads": 1, "runtime": runtime}
    assert found.report.to_dict()["latency"] == {"batch": 1, "threads": 1}
    assert found.report.to_dict()["runtime"] == runtime


def photos(folder: Path) -> None:
    """Five class folders of noise, each with a brightness of its own."""
    generator = np.random.default_rng(0)
    for label in range(5):
        (folder / str(label)).mkdir(parents=True)
        for number in range(30):
            pixels = generator.integers(0, 60, (12, 12, 3)) + 40 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / str(label) / f"{number}.png")


def test_accuracy_on_samples_that_nothing_was_solved_with(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    model = network()
    found = sweep(model, tmp_path / "photos", (1.5, 3), labels=True, models=True, **HOW)
    calibration = samples_of(model, tmp_path / "photos", **HOW)
    held_out = calibration.split.held_out
    assert found.report.held_out == len(held_out) == 30
    assert calibration.samples.labels is not None
    truth, feeds = calibration.samples.labels[held_out], calibration.samples.read(held_out)

    def accuracy(some: onnx.ModelProto) -> dict[str, float]:
        return {"top1": float((run(some, feeds)["scores"].argmax(1) == truth).mean()), "top5": 1.0}

    assert found.report.accuracy == pytest.approx(accuracy(model), abs=1e-12, rel=0)
    for point, result in zip(found.report.points, found.results, strict=True):
        assert result.model is not None
        assert point.accuracy == pytest.approx(accuracy(result.model), abs=1e-12, rel=0)
        assert point.loss == pytest.approx(1 - accuracy(result.model)["top1"], abs=1e-12, rel=0)


def test_labels_want_class_folders() -> None:
    with pytest.raises(CalibrationError, match="no class folders, which `labels` reads: drop `labels`"):
        swept(labels=True)
    with pytest.raises(CalibrationError, match="data: none given, `labels` reads their class folders"):
        sweep(network(), None, (2,), labels=True, **HOW)
