"""Chains timed as parts of one network: by a runtime that is made up, and by real ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank.errors import BudgetError, MissingDependencyError, ModelError
from onnx_lowrank.graph import Part, layer_model, layers_model
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime import layer_latency
from onnx_lowrank.runtime.backends import Running, open_runtime
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine
from onnx_lowrank.runtime.layer_latency import LayerTimer, open_layer_timer
from onnx_lowrank.runtime.layer_parts import time_parts
from onnx_lowrank.runtime.progress import Silent
from tests.example_layers import conv_layer
from tests.helpers import CPU, Feeds, build, find, normal, relative, run

PACKAGES = {"openvino:f32": ["openvino"], "ncnn": ["ncnn", "pnnx"], "mnn": ["MNN"]}

WIDE, NARROW = conv_layer(16, 8, (3, 3), (9, 10), name="wide"), conv_layer(8, 24, (3, 3), (9, 10), name="narrow")
PARTS = [
    Part(WIDE, LayerPlan("wide"), 1),
    Part(WIDE, LayerPlan("wide", "channel", 4), 1),
    Part(NARROW, LayerPlan("narrow", "spatial", spatial=4), 1),
]


def installed(name: str) -> str:
    if any(importlib.util.find_spec(package) is None for package in PACKAGES[name]):
        pytest.skip(f"{name} is not installed")
    return name


@dataclass
class Notes:
    """A runtime that writes down what it is asked for.

    Attributes:
        networks: numbers of outputs and of inputs of what was prepared.
        runs: outputs in the order they were run.
        opened: how many are open.
        fails: at this run, the first being 1.
    """

    networks: list[tuple[int, int]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    opened: int = 0
    fails: int = 0
    name: str = "notes"
    version: str = "1"
    precision: str = "f32"
    threads: int = 1
    runs_parts: bool = True

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, Any], folder: Path) -> Any:
        assert isinstance(model, onnx.ModelProto)
        assert folder.is_dir()
        assert {value.name for value in model.graph.input} == feeds.keys()
        self.networks.append((len(model.graph.output), len(feeds)))
        return self

    def open(self, outputs: Sequence[str] | None = None) -> Running:
        assert outputs is not None
        self.opened += 1
        return NotesRunning(self, *outputs)


@dataclass
class NotesRunning:
    notes: Notes
    output: str

    def run(self) -> None:
        self.notes.runs.append(self.output)
        if len(self.notes.runs) == self.notes.fails:
            raise ModelError("it fails")

    def outputs(self) -> Feeds:
        return {}

    def close(self) -> None:
        self.notes.opened -= 1


def timed(parts: Sequence[Part], runtime: Any, passes: int = 3, rest: int = 0) -> tuple[list[int], list[float], int]:
    """Numbers of chains and times as they come, and how often the caches were passed through."""
    count = 0

    def between() -> None:
        nonlocal count
        count += 1

    found = list(time_parts(parts, runtime, passes, rest, between))
    return [number for number, _ in found], [ms for _, ms in found], count


def test_every_part_computes_what_its_own_model_does() -> None:
    model = layers_model(PARTS)
    onnx.checker.check_model(model)
    generator = np.random.default_rng(3)
    feeds = {part.input_name: generator.random(part.input_shape, np.float32) for part in PARTS}
    assert len(feeds) == 2
    found = run(model, feeds)
    for number, part in enumerate(PARTS):
        alone = layer_model(part.layer, random_factors(part.layer, part.plan), 1)
        (wanted,) = run(alone, {"input": feeds[part.input_name]}).values()
        np.testing.assert_array_equal(found[f"output{number}"], wanted)


def test_the_size_of_a_part_is_that_of_its_weights() -> None:
    for part in PARTS:
        model = layers_model([part])
        weights = [each for each in model.graph.initializer if len(each.dims) == 4]
        assert part.nbytes == sum(len(each.raw_data) for each in weights)


def test_chains_take_turns_after_a_run_that_does_not_count() -> None:
    notes = Notes()
    numbers, times, between = timed(PARTS, notes)
    assert numbers == [0, 1, 2] * 3
    assert notes.runs == ["output0", "output1", "output2"] * 4
    assert notes.opened == 0
    assert min(times) >= 0
    assert between == 0


@pytest.mark.parametrize(("rest", "wanted"), [(0, 0), (5_000, 0), (50_000, 3)])
def test_few_chains_are_not_enough_to_clear_the_caches(rest: int, wanted: int) -> None:
    """Those here have some 10 KB of weights."""
    assert timed(PARTS, Notes(), rest=rest)[2] == wanted


def test_many_chains_are_shared_out_to_several_networks() -> None:
    notes = Notes()
    numbers, _, _ = timed(PARTS * 50, notes, passes=1)
    assert notes.networks == [(64, 2), (64, 2), (22, 2)]
    assert sorted(numbers) == list(range(150))


def test_large_chains_are_shared_out_by_their_bytes() -> None:
    large = conv_layer(1024, 512, (3, 3), (4, 4))  # 18 MiB
    notes = Notes()
    timed([Part(large, LayerPlan("conv"), 1)] * 5, notes, passes=1)
    assert notes.networks == [(3, 1), (2, 1)]


def test_a_network_that_cannot_be_run_is_closed() -> None:
    notes = Notes(fails=5)
    with pytest.raises(ModelError, match="it fails"):
        timed(PARTS, notes)
    assert notes.opened == 0


@pytest.mark.parametrize("name", PACKAGES)
def test_real_runtimes_run_only_the_part_that_is_wanted(name: str) -> None:
    """A hundredth of the work takes less than a tenth of the time, though both are in one network."""
    large, small = conv_layer(128, 128, (3, 3), (40, 40)), conv_layer(16, 16, (3, 3), (30, 30))
    parts = [Part(large, LayerPlan("conv"), 1), Part(small, LayerPlan("conv"), 1)]
    numbers, times, _ = timed(parts, open_runtime(installed(name), CPU), passes=5)
    best = [min(ms for number, ms in zip(numbers, times, strict=True) if number == wanted) for wanted in (0, 1)]
    assert 0 < best[1] < best[0] / 10


KINDS = {
    "1-D": ("r = Conv<pads=[1,1]>(x, w)", (64, 50), (64, 64, 3)),
    "3-D": ("r = Conv<pads=[1,1,1,1,1,1]>(x, w)", (32, 6, 10, 10), (32, 32, 3, 3, 3)),
    "groups": ("r = Conv<pads=[1,1,1,1],group=2>(x, w)", (64, 20, 20), (64, 32, 3, 3)),
    "transposed": ("r = ConvTranspose<strides=[2,2],pads=[1,1,1,1]>(x, w)", (64, 20, 20), (64, 64, 4, 4)),
    "strides": ('r = Conv<strides=[2,2],auto_pad="SAME_UPPER">(x, w)', (64, 21, 21), (64, 64, 3, 3)),
    "rows": ("r = MatMul(x, w)", (30, 64), (64, 64)),
    "one row": ("r = Gemm<transB=1>(x, w)", (64,), (64, 64)),
}


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind_can_be_parts(name: str, kind: str, tmp_path: Path) -> None:
    node, shape, weight = KINDS[kind]
    sizes = ",".join(["N", *map(str, shape)])
    text = f"g (float[{sizes}] x) => (float[{','.join(f'Y{axis}' for axis in range(1 + len(shape)))}] y) "
    network = build(f"{text} {{ {node} y = Relu(r) }}", {"w": normal(0, *weight)})
    ((layer, *_), _) = find(network, {"x": normal(1, 2, *shape)})
    ways: list[dict[str, Any]] = [{}, {"method": "channel", "channel": 8}]
    if layer.separable:
        ways += [{"method": "spatial-channel", "channel": 8, "spatial": 16}]
    parts = [Part(layer, LayerPlan(layer.name, **way), 1) for way in ways]
    model = layers_model(parts)
    feeds = {part.input_name: np.abs(normal(2, *part.input_shape)) for part in parts}
    wanted = run(model, feeds)
    prepared = open_runtime(installed(name), CPU).prepare(model, feeds, tmp_path)
    for output, values in wanted.items():
        running = prepared.open([output])
        running.run()
        ((found_name, found),) = running.outputs().items()
        assert (found_name, found.shape) == (output, values.shape)
        assert relative(values, found) < 1e-4
        running.close()


@pytest.mark.parametrize("name", PACKAGES)
def test_tables_of_real_runtimes(name: str, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    timer = open_layer_timer(installed(name), CPU, 1, file, 2**18)
    chains = [(part.layer, part.plan) for part in PARTS]
    timer.measure(chains, Silent())
    assert all(timer.milliseconds(*chain) > 0 for chain in chains)
    machine = LatencyTable.from_json(file.read_text(), "t").machine
    assert (machine.runtime, machine.threads) == (name.partition(":")[0], 1)
    again = open_layer_timer(name, CPU, 1, file, 2**18)
    assert not again.foreign
    assert again.milliseconds(*chains[1]) == timer.milliseconds(*chains[1])


# Tables of other runtimes

PHONE = LatencyTable(Machine("ncnn", "1", "f16", "cpu", "a phone", 4, 8))


def missing(name: str, _: Any) -> Any:
    raise MissingDependencyError(f"runtime '{name}': pip install it")


def test_a_runtime_that_is_not_installed_is_not_needed_where_a_table_has_the_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_latency, "open_runtime", missing)
    file = tmp_path / "t.json"
    with pytest.raises(MissingDependencyError, match="'ncnn'"):
        open_layer_timer("ncnn", CPU, 1, None, 0)
    with pytest.raises(MissingDependencyError, match="'ncnn'"):
        open_layer_timer("ncnn", CPU, 1, file, 0)
    file.write_text(PHONE.to_json())
    timer = open_layer_timer("ncnn", CPU, 1, file, 0)
    assert timer.foreign
    assert timer.machine == PHONE.machine


def test_a_table_of_another_runtime(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(PHONE.to_json())
    with pytest.raises(BudgetError) as caught:
        open_layer_timer("onnxruntime", CPU, 1, file, 0)
    assert str(caught.value) == (
        f"`latency_table` {file}: measured on a phone, cpu, 4 threads, ncnn 1, f16, `runtime` is onnxruntime: use "
        "`runtime='ncnn'`, or another table"
    )


def test_times_of_a_device_count_with_whatever_between_two_runs(tmp_path: Path) -> None:
    """Tools of runtimes have no rest of the network go through the caches: their keys do not say so."""
    chain = (WIDE, LayerPlan("wide"))
    here = LayerTimer(CPU, 1, tmp_path / "here.json", network_bytes=2**20)
    there = LayerTimer(CPU, 1, tmp_path / "t.json", network_bytes=0)
    there.measure([chain], Silent())
    table = LatencyTable.from_json((tmp_path / "t.json").read_text(), "t")
    assert not LayerTimer(CPU, 1, tmp_path / "t.json", network_bytes=2**20).known(*chain)
    moved = LatencyTable(PHONE.machine, table.milliseconds)
    (tmp_path / "phone.json").write_text(moved.to_json())
    phone = LayerTimer(CPU, 1, tmp_path / "phone.json", network_bytes=2**20)
    assert phone.milliseconds(*chain) == there.milliseconds(*chain)
    assert not here.known(*chain)


def test_chains_for_litert_are_timed_in_onnxruntime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whole networks are timed in LiteRT itself."""
    seen = []
    real = layer_latency.time_in_turns

    def spy(models: Any, feeds: Any, runtime: Any, *rest: Any) -> Any:
        seen.append(runtime.name)
        return real(models, feeds, runtime, *rest)

    monkeypatch.setattr(layer_latency, "time_in_turns", spy)
    litert = Notes(name="litert", runs_parts=False)
    timer = LayerTimer(CPU, 1, tmp_path / "t.json", runtime=litert)
    timer.measure([(WIDE, LayerPlan("wide"))], Silent())
    assert set(seen) == {"onnxruntime"}
    assert timer.machine.runtime == "litert"
