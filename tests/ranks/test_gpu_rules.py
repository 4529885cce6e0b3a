"""What is chosen for a GPU under milliseconds, where the clock is made up: no GPU is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank import Settings, convert
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.ranks.coupled import Coupling
from onnx_lowrank.ranks.gpu import methods_that_pay, no_slower
from onnx_lowrank.ranks.select import Option
from onnx_lowrank.ranks.within import Budget, best_within
from onnx_lowrank.report.result import Result
from onnx_lowrank.runtime.latency_table import Machine
from onnx_lowrank.runtime.layer_latency import LayerTimer, machine_of
from onnx_lowrank.runtime.progress import Silent
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.rank_multiples import runs_on_gpu
from onnx_lowrank.runtime.table_file import write_table
from onnx_lowrank.runtime.timing import Pace, Timing
from tests.example_layers import conv_layer
from tests.helpers import CPU, Feeds, Work, build, filters, is_one_layer, work

RATE, LAUNCH_MS = 1e6, 0.001  # multiply-adds a millisecond; of a convolution
ALL = ("channel", "spatial", "spatial-channel", "input", "tucker", "width")

Milliseconds = Callable[[onnx.ModelProto, list[Work], int], float]


def by_macs(_: onnx.ModelProto, convolutions: list[Work], batch: int) -> float:
    return sum(LAUNCH_MS + batch * each.macs / RATE for each in convolutions)


def thin_kernels_are_dear_in_large_batches(model: onnx.ModelProto, convolutions: list[Work], batch: int) -> float:
    thin = sum(each.macs for each in convolutions if each.weight[2:] in {(3, 1), (1, 3)})
    return by_macs(model, convolutions, batch) + (20 * batch * thin / RATE if batch > 1 else 0)


def chains_are_dear_among_others(model: onnx.ModelProto, convolutions: list[Work], batch: int) -> float:
    crowded = batch > 1 and len(convolutions) > 4 and not is_one_layer(model)
    return by_macs(model, convolutions, batch) * (9 if crowded else 1)


def set_clock(monkeypatch: pytest.MonkeyPatch, cache: Path, milliseconds: Milliseconds, *, on_gpu: bool) -> list[int]:
    """Have conversions measure with a made-up clock, on what they take for a GPU; return the batches that are timed."""
    batches: list[int] = []

    def clock(
        models: Sequence[Any],
        feeds: Sequence[Feeds],
        _runtime: Any,
        pace: Pace,
        _between: Callable[[], None] = lambda: None,
    ) -> list[Timing]:
        timings = []
        for model, feed in zip(models, feeds, strict=True):
            loaded = onnx.load(model) if isinstance(model, Path) else model
            batches.append(len(next(iter(feed.values()))))
            timings.append(Timing(((milliseconds(loaded, work(loaded), batches[-1]),),) * pace.rounds))
        return timings

    for module in ("runtime.layer_latency", "runtime.latency"):
        monkeypatch.setattr(f"onnx_lowrank.{module}.time_in_turns", clock)
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.user_cache_path", lambda name: cache / name)
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: 8)
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.runs_on_gpu", lambda *_: on_gpu)
    return batches


def chain(*channels: int, batch: str = "N") -> onnx.ModelProto:
    """Convolutions c1, c2, ... between such numbers of channels, of a low spatial rank."""
    lines, weights = ["c0 = Conv<pads=[1,1,1,1]>(x, w0)  r0 = Relu(c0)"], {"w0": filters(0, channels[0], 3, 3, 3)}
    for number, (c, d) in enumerate(pairwise(channels), 1):
        lines.append(f"c{number} = Conv<pads=[1,1,1,1]>(r{number - 1}, w{number})  r{number} = Relu(c{number})")
        few, mixing = filters(number, d // 8, c, 3, 1), filters(number + 50, d, d // 8, 1, 3)
        weights[f"w{number}"] = np.einsum("dfow,fchp->dchw", mixing, few)
    lines.append(f"y = GlobalAveragePool(r{len(channels) - 1})")
    text = "\n".join(lines)
    return build(f"g (float[{batch},3,8,8] x) => (float[{batch},{channels[-1]},1,1] y) {{ {text} }}", weights)


def images(count: int) -> Mapping[str, Any]:
    return {"x": np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def by_time(model: onnx.ModelProto, **changes: Any) -> Result:
    chosen = {"speedup": 1.8, "cost": "latency", "samples": 64, "provider": "cpu", "threads": 1, "dry_run": True}
    return convert(model, images(80), **(chosen | {"refine": "none"} | changes))


def methods(result: Result) -> dict[str, str]:
    return {entry.name: entry.method for entry in result.plan}


@pytest.mark.parametrize(
    ("filters", "channels", "groups", "wanted"),
    [
        (64, 64, 1, ["width"]),
        (256, 64, 1, ["width"]),
        (64, 256, 1, ["width"]),
        (72, 72, 1, ["channel", "spatial", "input", "width"]),
        (128, 512, 1, ["channel", "spatial", "input", "width"]),
        (136, 136, 1, list(ALL)),
        (256, 256, 4, ["width"]),  # 64 to 64 in each group
        (544, 544, 4, list(ALL)),
    ],
)
def test_thin_layers_get_fewer_forms(filters: int, channels: int, groups: int, wanted: list[str]) -> None:
    layer = replace(conv_layer(filters, channels // groups, (3, 3), (8, 8)), groups=groups)
    assert methods_that_pay(layer, ALL) == wanted


def test_three_way_chains_that_were_asked_for_alone_become_their_parts() -> None:
    layer = conv_layer(128, 128, (3, 3), (8, 8))
    assert methods_that_pay(layer, ("tucker",)) == ["input", "channel"]
    assert methods_that_pay(layer, ("spatial-channel",)) == ["channel", "spatial"]


def test_thin_layers_of_a_network_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = chain(64, 64, 128, 128)
    set_clock(monkeypatch, tmp_path, by_macs, on_gpu=True)
    on_gpu = methods(by_time(model, method=("channel", "spatial", "spatial-channel", "tucker"), speedup=1.5))
    assert [on_gpu[name] for name in ("c0", "c1", "c2")] == ["kept"] * 3
    assert on_gpu["c3"] in {"channel", "spatial", "input"}
    set_clock(monkeypatch, tmp_path / "other", by_macs, on_gpu=False)
    on_cpu = methods(by_time(model, method=("channel", "spatial", "spatial-channel", "tucker"), speedup=1.5))
    assert "kept" not in {on_cpu["c1"], on_cpu["c2"]}


@pytest.mark.parametrize(
    ("on_gpu", "batch", "spatial"), [(True, "N", False), (False, "N", True), (True, "1", True)]
)  # a fixed batch is the only one it runs with
def test_nothing_is_chosen_that_is_slower_at_another_batch_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, on_gpu: bool, batch: str, spatial: bool
) -> None:
    batches = set_clock(monkeypatch, tmp_path, thin_kernels_are_dear_in_large_batches, on_gpu=on_gpu)
    result = by_time(chain(136, 136, 136, batch=batch), method=("spatial", "channel"))
    assert ("spatial" in methods(result).values()) is spatial
    assert ("channel" in methods(result).values()) or spatial
    assert set(batches) == ({1, 32} if on_gpu and batch == "N" else {1})


@pytest.mark.parametrize(("width_energy", "on_cpu", "on_gpu"), [
    (0.93, "width", "width"), (0.89, "channel", "width"), (0.85, "channel", "channel"),
])  # fmt: skip
def test_fewer_channels_come_first(width_energy: float, on_cpu: str, on_gpu: str) -> None:
    """Ranks lose .1: fewer channels have to lose less than .08 on a CPU, but only less than .125 on a GPU."""
    kept = Option(LayerPlan("c"), 10.0, 10.0)
    ranks = Option(LayerPlan("c", "channel", 8, energy=0.9), 5.0, 5.0)
    narrow = Option(LayerPlan("c", "width", width=8, energy=width_energy), 5.0, 5.0, 0.5)
    budget, coupling = Budget(6.0, 10.0, 0.0), Coupling([], [0.0])
    for wanted, is_gpu in ((on_cpu, False), (on_gpu, True)):
        (chosen,) = best_within([[kept, ranks, narrow]], budget, coupling, Settings(), on_gpu=is_gpu)
        assert chosen.plan.method == wanted


def test_options_that_take_longer_than_the_layer_go() -> None:
    options = [Option(LayerPlan("c", energy=1 - number / 10), 1.0) for number in range(4)]
    assert no_slower(options, [5.0, 4.0, 5.0, 5.1]) == options[:3]


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_network_that_is_slower_at_another_batch_size_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, on_gpu: bool
) -> None:
    set_clock(monkeypatch, tmp_path, chains_are_dear_among_others, on_gpu=on_gpu)
    result = by_time(chain(136, 136, 136), method="channel", dry_run=False)
    slower = [str(each) for each in result.report.warnings if "slower than the original" in str(each)]
    if not on_gpu:
        assert not slower
        return
    (text,) = slower
    speedup, rest = text.removeprefix("measured speedup ").split(" ", 1)
    assert float(speedup) == pytest.approx(result.report.to_dict()["speedup"]["latency"] / 9, rel=0.05)
    assert rest == (
        "with batches of 32: slower than the original: convert for the batch it runs with, `input_shapes` says that"
    )


@pytest.mark.parametrize(
    ("runtime", "provider", "wanted"),
    [
        ("onnxruntime", "cpu", False),
        ("onnxruntime", "cuda", True),
        ("onnxruntime", "tensorrt", True),
        ("tensorrt", "cpu", True),
        ("openvino", "cuda", False),  # which onnxruntime would run on
    ],
)
def test_where_networks_run(runtime: str, provider: str, *, wanted: bool) -> None:
    assert runs_on_gpu(runtime, provider) is wanted


def test_a_timer_knows_what_it_times_on(tmp_path: Path) -> None:
    assert not LayerTimer(CPU, 1, tmp_path / "t.json").on_gpu
    assert LayerTimer(Provider("cuda"), 1, tmp_path / "u.json").on_gpu
    timer = LayerTimer(CPU, 1, tmp_path / "v.json")
    elsewhere = Machine("tensorrt", "11.0", "tf32", "cpu", "Orin", 1, 8)
    assert machine_of(timer.runtime, CPU) != elsewhere
    timer._table.machine = elsewhere
    write_table(timer._table, tmp_path / "v.json", is_cache=False)
    assert LayerTimer(CPU, 1, tmp_path / "v.json").on_gpu


def test_batches_of_two_sizes_share_a_table(tmp_path: Path) -> None:
    layer = conv_layer(32, 32, (3, 3), (16, 16))
    chains = [(layer, LayerPlan(layer.name))]
    timer = LayerTimer(CPU, 1, tmp_path / "t.json")
    larger = timer.at_batch(32)
    larger.measure(chains, Silent())
    assert larger.known(*chains[0])
    assert not timer.known(*chains[0])
    timer.measure(chains, Silent())
    assert larger.milliseconds(*chains[0]) > timer.milliseconds(*chains[0])
    again = LayerTimer(CPU, 32, tmp_path / "t.json")
    assert again.milliseconds(*chains[0]) == larger.milliseconds(*chains[0])
