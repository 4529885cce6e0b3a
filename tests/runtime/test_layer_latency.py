"""The clock for layers and its tables, with made-up times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank.errors import BudgetError, OutputError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.runtime import layer_latency, table_file
from onnx_lowrank.runtime.backends import Runtime
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine, chain_key
from onnx_lowrank.runtime.layer_latency import LayerTimer
from onnx_lowrank.runtime.progress import Item, Silent
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.timing import Pace, Timing
from tests.example_layers import conv_layer
from tests.helpers import CPU, Feeds, MadeUpClock, build, normal, set_clock, work
from tests.stand_in_runtime import StandIn

SMALL, LARGE = conv_layer(8, 4, (3, 3), (6, 6), name="small"), conv_layer(16, 8, (3, 3), (6, 6), name="large")
KEPT = [(layer, LayerPlan(layer.name)) for layer in (SMALL, LARGE)]
CHAIN = (LARGE, LayerPlan("large", "channel", 4))
ELSEWHERE = Machine("onnxruntime", "1.0", "f32", "cpu", "a board on the bench", 4, 8)


def macs(model: onnx.ModelProto | Path) -> float:
    return float(sum(each.macs for each in work(model)))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MadeUpClock:
    """A clock that shows multiply-adds."""
    return set_clock(monkeypatch, tmp_path / "cache", macs)


def table_of(path: Path) -> LatencyTable:
    return LatencyTable.from_json(path.read_text(), "test")


def clock_of(provider: Provider, batch: int, file: Path | None = None) -> LayerTimer:
    """A clock for the layers of a small network."""
    return LayerTimer(provider, batch, file=file, network_bytes=2**18)


def key_of(layer: Layer, plan: LayerPlan, batch: int = 1) -> str:
    return f"{chain_key(layer, plan, batch)}, after 1 MB"


def foreign_table(path: Path, entries: Iterable[Any] = (), batch: int = 1) -> Path:
    table = LatencyTable(ELSEWHERE, {key_of(layer, plan, batch): 7.0 for layer, plan in entries})
    path.write_text(table.to_json())
    return path


# What is timed


def test_times_are_those_of_the_layers_models(made_up: MadeUpClock) -> None:
    clock = clock_of(CPU, 1)
    clock.measure([*KEPT, CHAIN], Silent())
    assert clock.milliseconds(*KEPT[0]) == SMALL.macs
    assert clock.milliseconds(*KEPT[1]) == LARGE.macs
    assert clock.milliseconds(*CHAIN) == 36 * 4 * (72 + 16)
    assert not clock.known(LARGE, LayerPlan("large", "channel", 5))
    with pytest.raises(KeyError):
        clock.milliseconds(LARGE, LayerPlan("large", "channel", 5))


def test_chains_take_turns_and_the_best_counts(monkeypatch: pytest.MonkeyPatch, made_up: MadeUpClock) -> None:
    slowed = iter([1.0, 3.0, 2.0, 2.0, 5.0, 1.0])
    made_up.milliseconds = lambda model: macs(model) * next(slowed)
    clock = clock_of(CPU, 1)
    clock.measure(KEPT, Silent())
    sizes = [work(model)[0].macs for model in made_up.layers]
    assert sizes == [SMALL.macs, LARGE.macs] * 3
    assert [clock.milliseconds(*chain) for chain in KEPT] == [SMALL.macs, LARGE.macs]


def test_what_is_alike_is_timed_once(made_up: MadeUpClock) -> None:
    clock = clock_of(CPU, 1)
    twin = replace(SMALL, name="twin")
    clock.measure([*KEPT, (twin, LayerPlan("twin")), KEPT[0]], Silent())
    assert len(made_up.layers) == 3 * 2
    assert clock.known(twin, LayerPlan("twin", reason="no factorization of it costs less"))
    clock.measure([*KEPT, (twin, LayerPlan("twin"))], Silent())
    assert len(made_up.layers) <= 3 * 2 + 1  # at most a look whether it still holds


def test_progress_counts_what_is_timed(made_up: MadeUpClock) -> None:
    class Counts:
        def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
            seen.append((stage, total))
            return iter(items)

    seen: list[tuple[str, int]] = []
    clock = clock_of(CPU, 1)
    clock.measure(KEPT, Counts())
    clock.measure([*KEPT, CHAIN], Counts())
    clock.measure([*KEPT, CHAIN], Counts())
    assert seen == [("latency", 6), ("latency", 3)]


@pytest.mark.parametrize("batch", [1, 4])
def test_inputs_have_the_batch_size_and_the_type_of_the_layer(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    seen = []

    def timed(models: Any, feeds: list[Feeds], runtime: Runtime, pace: Pace, between: Any) -> list[Timing]:
        seen.extend([runtime, feeds[0]["input"].shape, feeds[0]["input"].dtype])
        return [Timing(((1.0,),))]

    monkeypatch.setattr(layer_latency, "time_in_turns", timed)
    half = replace(SMALL, weight=SMALL.weight.astype(np.float16))
    clock_of(Provider("cpu", 3), batch)._time(half, LayerPlan("small"))
    assert seen == [OnnxRuntime(Provider("cpu", 3)), (batch, 4, 6, 6), np.float16]


def test_real_times_are_positive_and_remembered(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    first = clock_of(CPU, 1, file)
    first.measure([*KEPT, CHAIN], Silent())
    assert all(first.milliseconds(*each) > 0 for each in [*KEPT, CHAIN])
    second = clock_of(CPU, 1, file)
    assert [second.milliseconds(*each) for each in KEPT] == [first.milliseconds(*each) for each in KEPT]


@pytest.mark.parametrize(("megabytes", "rest"), [(0.1, 1), (0.5, 1), (0.6, 2), (1.6, 4), (16, 32), (400, 32)])
def test_twice_the_network_passes_through_the_caches(
    made_up: MadeUpClock, tmp_path: Path, megabytes: float, rest: int
) -> None:
    """To the next power of two, and never more than 32 MB; none where it is not known."""
    for number, (size, end) in enumerate([(int(megabytes * 2**20), f", after {rest} MB"), (0, ", kept")]):
        file = tmp_path / f"{number}.json"
        LayerTimer(CPU, 1, file=file, network_bytes=size).measure(KEPT, Silent())
        assert all(key.endswith(end) for key in table_of(file).milliseconds)


def test_layers_of_networks_of_other_sizes_are_timed_anew(made_up: MadeUpClock, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    LayerTimer(CPU, 1, file=file, network_bytes=2**18).measure(KEPT, Silent())
    assert LayerTimer(CPU, 1, file=file, network_bytes=2**17).known(*KEPT[0])
    assert not LayerTimer(CPU, 1, file=file, network_bytes=2**22).known(*KEPT[0])


class EndsAfterOne:
    """Takes the place of a progress bar: the signal comes while a chain is timed."""

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        assert stage == "latency"
        for _, item in zip(range(total), items, strict=False):
            yield item
            raise KeyboardInterrupt


def test_an_interruption_leaves_no_files_of_converters(tmp_path: Path) -> None:
    runtime = StandIn(runs_parts=True)
    # What is caught keeps all frames alive, as in a program that is about to end: nothing is tidied up by itself.
    with pytest.raises(KeyboardInterrupt) as caught:
        LayerTimer(CPU, 1, tmp_path / "t.json", runtime=runtime).measure(KEPT, EndsAfterOne())
    assert runtime.folders
    assert not any(folder.exists() for folder in runtime.folders)
    del caught


# Whole networks

NETWORK = build(
    "g (float[N,3,6,6] x) => (float[N,4,6,6] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", {"w": normal(0, 4, 3, 3, 3)}
)


def test_a_network_is_timed_once_for_each_shape_and_each_weight(made_up: MadeUpClock) -> None:
    clock = clock_of(CPU, 1)
    feeds = {"x": normal(0, 1, 3, 6, 6)}
    assert clock.network(NETWORK, feeds) == 36 * 4 * 27
    clock.network(NETWORK, {"x": normal(1, 1, 3, 6, 6)})
    clock_of(CPU, 1).network(NETWORK, feeds)
    assert made_up.networks == [[NETWORK]]
    clock.network(NETWORK, {"x": normal(0, 2, 3, 6, 6)})
    other = build(
        "g (float[N,3,6,6] x) => (float[N,4,6,6] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", {"w": normal(1, 4, 3, 3, 3)}
    )
    clock.network(other, feeds)
    assert len(made_up.networks) == 3


def test_a_network_that_a_table_from_elsewhere_does_not_know(made_up: MadeUpClock, tmp_path: Path) -> None:
    clock = clock_of(CPU, 1, foreign_table(tmp_path / "t.json"))
    message = r"`latency_table` .*t\.json: measured on a board on the bench, cpu, 4 threads, onnxruntime 1\.0, f32, "
    with pytest.raises(
        BudgetError, match=message + r"lacks 1 entries, the network itself \(network \w{16}, x 1x3x6x6\) first"
    ):
        clock.network(NETWORK, {"x": normal(0, 1, 3, 6, 6)})
    assert made_up.networks == []


def test_a_network_is_timed_where_its_layers_are(made_up: MadeUpClock, tmp_path: Path) -> None:
    """LiteRT's layers are timed in onnxruntime: a network timed in LiteRT would be on another scale."""
    feeds, file = {"x": normal(0, 1, 3, 6, 6)}, tmp_path / "t.json"
    clock = LayerTimer(CPU, 1, file, runtime=StandIn(name="litert"))
    assert clock.network(NETWORK, feeds, StandIn(name="litert")) == 36 * 4 * 27  # the clock takes onnxruntime only
    (key,) = LatencyTable.from_json(file.read_text(), "test").milliseconds
    assert key.endswith("x 1x3x6x6, in onnxruntime")
    moved = replace(LatencyTable.from_json(file.read_text(), "test"), machine=replace(clock.machine, device="a phone"))
    file.write_text(moved.to_json())
    for elsewhere in (StandIn(name="litert"), None):
        assert LayerTimer(CPU, 1, file, runtime=elsewhere).network(NETWORK, feeds) == 36 * 4 * 27
    file.write_text(replace(moved, milliseconds={key.removesuffix(", in onnxruntime"): 7.0}).to_json())
    assert LayerTimer(CPU, 1, file, runtime=StandIn(name="litert")).network(NETWORK, feeds) == 7.0
    assert made_up.networks == [[NETWORK]]


# Tables


def test_a_table_of_the_users_own(made_up: MadeUpClock, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    clock = clock_of(CPU, 1, file)
    assert not clock.foreign
    clock.measure(KEPT[:1], Silent())
    clock.measure([CHAIN], Silent())
    table = table_of(file)
    assert table.machine == clock.machine
    assert table.milliseconds == {
        key_of(*KEPT[0]): SMALL.macs,
        key_of(*CHAIN): clock.milliseconds(*CHAIN),
    }
    assert json.loads(file.read_text())["machine"]["threads"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.json"]  # no cache beside it


def test_a_table_is_read_before_it_is_added_to(made_up: MadeUpClock, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    clock_of(CPU, 1, file).measure(KEPT, Silent())
    made_up.layers.clear()
    again = clock_of(CPU, 1, file)
    again.measure([*KEPT, CHAIN], Silent())
    assert len(made_up.layers) == 3
    assert len(table_of(file).milliseconds) == 3
    other_batch = clock_of(CPU, 2, file)
    assert not other_batch.known(*CHAIN)
    other_batch.measure([CHAIN], Silent())
    assert len(table_of(file).milliseconds) == 4


def test_a_table_from_elsewhere_that_has_all(made_up: MadeUpClock, tmp_path: Path) -> None:
    file = foreign_table(tmp_path / "t.json", KEPT)
    before = file.read_bytes()
    clock = clock_of(CPU, 1, file)
    assert clock.foreign
    assert clock.machine == ELSEWHERE
    clock.measure(KEPT, Silent())
    assert [clock.milliseconds(*each) for each in KEPT] == [7.0, 7.0]
    assert made_up.layers == []
    assert file.read_bytes() == before


def test_a_table_from_elsewhere_that_lacks_something(made_up: MadeUpClock, tmp_path: Path) -> None:
    file = foreign_table(tmp_path / "t.json", KEPT[:1])
    before = file.read_bytes()
    clock = clock_of(CPU, 1, file)
    with pytest.raises(BudgetError) as caught:
        clock.measure([*KEPT, CHAIN], Silent())
    text = str(caught.value)
    assert text.startswith(
        f"`latency_table` {file}: measured on a board on the bench, cpu, 4 threads, onnxruntime 1.0,"
    )
    assert f"lacks 2 entries, Conv 'large' ({key_of(*KEPT[1])}) first; here is " in text
    assert text.endswith("complete it there, with the same command and `dry_run`")
    assert "\n" not in text
    assert made_up.layers == []
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "cuda"},
        {"device": "another"},
        {"threads": 2},
        {"version": "0.1"},
        {"runtime": "ncnn"},
        {"precision": "bf16"},
    ],
)
def test_another_machine_is_any_that_is_not_alike_in_all(
    made_up: MadeUpClock, tmp_path: Path, changes: dict[str, Any]
) -> None:
    file = tmp_path / "t.json"
    here = clock_of(CPU, 1).machine
    file.write_text(LatencyTable(here).to_json())
    assert not clock_of(CPU, 1, file).foreign
    file.write_text(LatencyTable(replace(here, **changes)).to_json())
    assert clock_of(CPU, 1, file).foreign


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a latency table"),
        (b"{}", "not a latency table"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'{"layers": []}', "not a latency table"),
    ],
)
def test_a_file_that_is_no_table(made_up: MadeUpClock, tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "t.json"
    file.write_bytes(content)
    with pytest.raises(BudgetError, match=rf"^`latency_table` .*t\.json: {message}"):
        clock_of(CPU, 1, file)
    assert file.read_bytes() == content


def test_a_table_that_cannot_be_read(made_up: MadeUpClock, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"`latency_table` .*: cannot be read \(.*\): check the path"):
        clock_of(CPU, 1, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BudgetError, match="cannot be read"):
        clock_of(CPU, 1, tmp_path / "file" / "t.json")


def test_a_table_that_cannot_be_written(made_up: MadeUpClock, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"t\.json: cannot be written"):
        clock_of(CPU, 1, tmp_path / "nowhere" / "t.json").measure(KEPT, Silent())
    assert list(tmp_path.iterdir()) == []


# The user's cache


def cache_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.json"))


def test_the_cache_remembers_from_run_to_run(made_up: MadeUpClock, tmp_path: Path) -> None:
    first = clock_of(CPU, 1)
    assert cache_files(tmp_path) == []
    first.measure(KEPT, Silent())
    (file,) = cache_files(tmp_path)
    name = hashlib.sha256(str(first.machine).encode()).hexdigest()[:16]
    assert file == tmp_path / "cache" / "onnx-lowrank" / f"latency-{name}.json"
    made_up.layers.clear()
    second = clock_of(CPU, 1)
    second.measure(KEPT, Silent())
    second.measure(KEPT, Silent())
    assert [work(model)[0].macs for model in made_up.layers] == [LARGE.macs]  # one look whether it still holds
    assert [second.milliseconds(*each) for each in KEPT] == [SMALL.macs, LARGE.macs]


@pytest.mark.parametrize(("now", "remembered"), [(0.79, False), (0.81, True), (5.0, True)])
def test_a_cache_filled_on_a_busy_machine_is_forgotten(
    made_up: MadeUpClock, tmp_path: Path, now: float, remembered: bool
) -> None:
    clock_of(CPU, 1).measure([*KEPT, CHAIN], Silent())
    made_up.milliseconds = lambda model: now * macs(model)
    clock = clock_of(CPU, 1)
    clock.measure(KEPT, Silent())
    factor = 1 if remembered else now
    assert [clock.milliseconds(*each) for each in KEPT] == [factor * SMALL.macs, factor * LARGE.macs]
    assert clock.known(*CHAIN) is remembered
    (file,) = cache_files(tmp_path)
    assert len(table_of(file).milliseconds) == (3 if remembered else 2)


def test_a_table_of_the_users_own_is_never_forgotten(made_up: MadeUpClock, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    clock_of(CPU, 1, file).measure(KEPT, Silent())
    made_up.milliseconds = lambda _: 0.0
    clock = clock_of(CPU, 1, file)
    clock.measure(KEPT, Silent())
    assert [clock.milliseconds(*each) for each in KEPT] == [SMALL.macs, LARGE.macs]


def test_machines_and_numbers_of_threads_have_caches_of_their_own(
    made_up: MadeUpClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_of(Provider("cpu", 1), 1).measure(KEPT, Silent())
    clock_of(Provider("cpu", 2), 1).measure(KEPT, Silent())
    monkeypatch.setattr(layer_latency, "device_name", lambda _: "another")
    moved = clock_of(Provider("cpu", 1), 1)
    assert not moved.foreign
    assert not moved.known(*KEPT[0])
    moved.measure(KEPT, Silent())
    assert len(cache_files(tmp_path)) == 3
    assert len(made_up.layers) == 3 * 6


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"null", b'{"machine": 1, "milliseconds": {}}'])
def test_a_broken_cache_is_none(made_up: MadeUpClock, tmp_path: Path, content: bytes) -> None:
    clock_of(CPU, 1).measure(KEPT, Silent())
    (file,) = cache_files(tmp_path)
    file.write_bytes(content)
    clock = clock_of(CPU, 1)
    assert not clock.known(*KEPT[0])
    clock.measure(KEPT, Silent())
    assert len(table_of(file).milliseconds) == 2


def test_a_cache_that_is_a_folder_is_none(made_up: MadeUpClock, tmp_path: Path) -> None:
    clock_of(CPU, 1).measure(KEPT, Silent())
    (file,) = cache_files(tmp_path)
    file.unlink()
    file.mkdir()
    clock = clock_of(CPU, 1)
    clock.measure(KEPT, Silent())
    assert clock.known(*KEPT[0])


def test_a_place_for_the_cache_that_is_a_file_does_not_matter(made_up: MadeUpClock, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    clock = clock_of(CPU, 1)
    clock.measure(KEPT, Silent())
    assert clock.network(NETWORK, {"x": normal(0, 1, 3, 6, 6)}) > 0
    assert clock.milliseconds(*KEPT[0]) == SMALL.macs
    assert (tmp_path / "cache").read_text() == "in the way"


def test_a_full_disk_does_not_matter_to_the_cache(
    made_up: MadeUpClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("no space")

    monkeypatch.setattr(table_file, "add_texts", full)
    clock = clock_of(CPU, 1)
    clock.measure(KEPT, Silent())
    assert clock.known(*KEPT[0])
    with pytest.raises(OutputError):
        clock_of(CPU, 1, tmp_path / "t.json").measure(KEPT, Silent())
