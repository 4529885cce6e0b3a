"""What the command line says and takes where milliseconds are concerned; clocks are made up but for bench."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_lowrank import Pace
from onnx_lowrank.commands import bench as benchmark
from onnx_lowrank.runtime import layer_latency
from onnx_lowrank.runtime.device import device_name
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.timing import Timing
from tests.command_line import call, fails, works
from tests.helpers import MadeUpClock, build, filters, is_one_layer, normal, plain_network, set_clock, work
from tests.networks import images, network

RATIO = ("ratio_to_first", "interval", "steady")
QUICK = ("--rounds", "2", "--repeats", "3", "--threads", "1", "--provider", "cpu")
CONVERT = ("in.onnx", "out.onnx", "--data", "data.npy", "--threads", "1", "--provider", "cpu", "--speedup", "2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model and data for it."""
    here = tmp_path / "here"
    here.mkdir()
    onnx.save(plain_network(), here / "in.onnx")
    np.save(here / "data.npy", images(40, 8))
    monkeypatch.chdir(here)
    return here


def by_macs(model: onnx.ModelProto | Path) -> float:
    return sum(0.02 + each.blocked(4) / 1e5 for each in work(model))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> MadeUpClock:
    monkeypatch.setattr("onnx_lowrank.runtime.layer_latency.rank_block", lambda _: 4)
    return set_clock(monkeypatch, tmp_path / "cache", by_macs)


# bench


def test_bench_in_words(folder: Path) -> None:
    onnx.save(network(), "other.onnx")
    result = works("bench", "in.onnx", "other.onnx", *QUICK)
    where, title, first, second = result.stdout.splitlines()[:4]
    device = device_name(Provider("cpu", 1))
    assert where == f"{device}, provider cpu, 1 thread, onnxruntime {onnxruntime.__version__}"
    assert title.split() == ["median", "ms", "p10", "ms", "p90", "ms", "ratio", "interval", "model"]
    row = r"\s*\d+\.\d{3}\s+\d+\.\d{3}\s+\d+\.\d{3}\s+"
    assert re.fullmatch(row + r"1\.00x\s+in\.onnx \(x 1x3x8x8, \d+ runs\)", first)
    assert re.fullmatch(row + r"\d+\.\d\dx\s+\d+\.\d\d \.\. \d+\.\d\d   other\.onnx \(x 1x3x12x12, \d+ runs\)", second)


def test_bench_in_json(folder: Path) -> None:
    found = json.loads(works("bench", "in.onnx", "in.onnx", *QUICK, "--json", "--batch-size", "3").stdout)
    assert list(found) == ["provider", "device", "threads", "onnxruntime", "models", "runtimes"]
    assert (found["provider"], found["threads"]) == ("cpu", 1)
    for model in found["models"]:
        assert list(model) == ["path", "inputs", "median_ms", "p10_ms", "p90_ms", "runs", *RATIO]
        assert model["path"] == "in.onnx"
        assert model["inputs"] == {"x": [3, 3, 8, 8]}
        assert model["runs"] >= 2 * 3
        assert 0 < model["p10_ms"] <= model["median_ms"] <= model["p90_ms"]
    assert found["models"][0]["ratio_to_first"] == 1.0


def test_rounds_and_repeats_are_passed_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paces: list[Pace] = []

    def timed(models: list[onnx.ModelProto], feeds: object, provider: Provider, pace: Pace) -> list[Timing]:
        paces.append(pace)
        return [Timing(((1.0,),))] * len(models)

    monkeypatch.setattr(benchmark, "time_in_turns", timed)
    works("bench", "in.onnx", "--rounds", "7", "--repeats", "3", "--threads", "1")
    works("bench", "in.onnx", "--threads", "1")
    assert paces == [Pace(rounds=7, repeats=3), Pace()]


def test_bench_with_default_threads(folder: Path) -> None:
    words = ("bench", "in.onnx", "--rounds", "1", "--repeats", "1")
    assert "default threads" in works(*words).stdout
    assert json.loads(works(*words, "--json").stdout)["threads"] is None


def test_bench_with_open_axes(folder: Path) -> None:
    graph = "g (float[N, 3, h, w] x) => (float[N, 8, H, W] y) { y = Conv (x, k) }"
    onnx.save(build(graph, {"k": filters(0, 8, 3, 3, 3)}), "open.onnx")
    assert "pass --input-shapes x:1,3,?,?" in fails(folder, "bench", "open.onnx", *QUICK)
    for shape in ("x:2,3,10,9", "2x3x10x9", "[2,3,10,9]"):
        found = json.loads(works("bench", "open.onnx", *QUICK, "--json", "--input-shapes", shape).stdout)
        assert found["models"][0]["inputs"] == {"x": [2, 3, 10, 9]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.onnx"], "none.onnx: no such file, wanted an ONNX model: check the path"),
        (["in.onnx", "none.onnx"], "none.onnx: no such file"),
        (["data.npy"], "data.npy: "),
        (["in.onnx", "--provider", "tensorrt"], "provider 'tensorrt': this onnxr"),
        (["in.onnx", "--input-shapes", "z:1,3,8,8"], "no input 'z', the model has x"),
        (["in.onnx", "--input-shapes", "1,4,8,8"], "does not fit input 'x'"),
        (["odd.onnx"], "onnxruntime cannot run it"),
    ],
)
def test_bench_errors_are_one_line(folder: Path, words: list[str], message: str) -> None:
    odd = build("g (float[N,3] x) => (float[7] y) { y = Reshape(x, seven) }", {"seven": np.array([7])})
    onnx.save(odd, "odd.onnx")
    assert message in fails(folder, "bench", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing argument 'A.onnx [B.onnx ...]'"),
        (["in.onnx", "--rounds", "0"], "--rounds"),
        (["in.onnx", "--repeats", "0"], "--repeats"),
        (["in.onnx", "--repeats", "many"], "--repeats"),
        (["in.onnx", "--batch-size", "0"], "--batch-size"),
        (["in.onnx", "--threads", "0"], "--threads"),
        (["in.onnx", "--provider", "tpu"], "--provider"),
        (["in.onnx", "--input-shapes", "1,a"], "is not a shape like"),
        (["in.onnx", "--input-shapes", "1,3,8,8", "--input-shapes", "2,3,8,8"], "--input-shapes is given twice"),
        (["in.onnx", "--speedup", "2"], "No such option"),
    ],
)
def test_bench_usage_errors(folder: Path, words: list[str], message: str) -> None:
    result = call("bench", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_help_of_bench_fits_one_screen_and_shows_an_example() -> None:
    lines = works("bench", "--help").stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any("Example: onnx-lowrank bench" in line for line in lines)
    assert any(line.split()[:1] == ["bench"] for line in works("--help").stdout.splitlines())


# convert


def test_a_conversion_ends_with_its_latency(clock: MadeUpClock, folder: Path) -> None:
    result = works(*CONVERT, "--report", "r.json")
    report = json.loads(Path("r.json").read_text())
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("latency"))
    latency = report["latency"]
    assert line == (
        f"latency     {latency['before_ms']:.4g} -> {latency['after_ms']:.4g} ms ({latency['speedup']:.2f}x faster, "
        f"batch 1, 1 thread, onnxruntime {onnxruntime.__version__})"
    )
    assert report["runtime"] == {
        "name": "onnxruntime",
        "version": onnxruntime.__version__,
        "precision": "f32",
        "threads": 1,
    }
    assert report["speedup"]["latency"] == latency["speedup"]
    assert latency["before_ms"] == pytest.approx(by_macs(Path("in.onnx")))
    assert latency["after_ms"] == pytest.approx(by_macs(Path("out.onnx")))


def test_without_a_bench(clock: MadeUpClock, folder: Path) -> None:
    result = works(*CONVERT, "--no-bench", "--report", "r.json")
    assert not any(line.startswith("latency") for line in result.stdout.splitlines())
    report = json.loads(Path("r.json").read_text())
    assert report["latency"] is None
    assert report["speedup"]["latency"] is None
    assert clock.layers == clock.networks == []


def test_by_latency(clock: MadeUpClock, folder: Path) -> None:
    result = works(*CONVERT, "--cost", "latency", "--report", "r.json")
    found = by_macs(Path("in.onnx")) / by_macs(Path("out.onnx"))
    assert 1.99 <= found <= 2.15
    assert json.loads(Path("r.json").read_text())["speedup"]["latency"] == pytest.approx(found)
    assert "latency: " in result.stderr  # how far it is
    (metadata,) = (each.value for each in onnx.load("out.onnx").metadata_props if each.key == "onnx_lowrank.target")
    assert metadata == "speedup 2 (latency)"


def test_a_warning_where_the_time_does_not_follow(clock: MadeUpClock, folder: Path) -> None:
    clock.milliseconds = lambda model: by_macs(model) + (0 if is_one_layer(model) else 40)
    result = works(*CONVERT, "--save-plan", "p.json")
    (warning,) = (line for line in result.stderr.splitlines() if line.startswith("warning: measured"))
    assert re.match(r"warning: measured speedup 1\.\d\d is under 80 % of the 2\.\d\d that multiply-adds", warning)
    assert " ".join(result.stdout.split()).endswith(" ".join(warning.replace("warning:", "warning").split()))
    assert "--cost latency spends milliseconds instead, --exclude leaves layers out" in warning
    quiet = works(*CONVERT, "--force", "--quiet")
    assert quiet.stdout == ""
    assert quiet.stderr.startswith("warning: measured speedup")


def test_a_speedup_in_time_that_is_out_of_reach(clock: MadeUpClock, folder: Path) -> None:
    clock.milliseconds = lambda model: by_macs(model) + (0 if is_one_layer(model) else 40)
    message = fails(folder, *CONVERT, "--cost", "latency")
    assert re.match(
        r"error: speedup 2 cannot be reached, the largest that can is 1\.\d\d \(measured; 40 of \S+ ms are ", message
    )


# Tables


def test_a_table_that_travels(clock: MadeUpClock, folder: Path) -> None:
    """Filled with --dry-run there, used here."""
    table = ("--cost", "latency", "--latency-table", "t.json")
    there = works("in.onnx", *CONVERT[2:], *table, "--dry-run", "--save-plan", "there.json")
    assert not any(line.startswith("latency") for line in there.stdout.splitlines())
    read = LatencyTable.from_json(Path("t.json").read_text(), "test")
    assert len(read.milliseconds) == len(clock.layers) / 3 + 1
    elsewhere = Machine("onnxruntime", "1.0", "f32", "cpu", "a board", 4, 4)
    Path("t.json").write_text(replace(read, machine=elsewhere).to_json())
    before = Path("t.json").read_bytes()
    here = works(*CONVERT, *table, "--save-plan", "here.json")
    assert Path("t.json").read_bytes() == before
    assert Path("here.json").read_text() == Path("there.json").read_text()
    assert not any(line.startswith("latency") for line in here.stdout.splitlines())
    onnx.checker.check_model("out.onnx")


def test_a_table_that_lacks_something(clock: MadeUpClock, folder: Path) -> None:
    Path("t.json").write_text(LatencyTable(Machine("onnxruntime", "1.0", "f32", "cpu", "a board", 4, 8)).to_json())
    message = fails(folder, *CONVERT, "--cost", "latency", "--latency-table", "t.json")
    assert message.startswith(
        "error: --latency-table t.json: measured on a board, cpu, 4 threads, onnxruntime 1.0, f32, lacks "
    )
    assert message.endswith("complete it there, with the same command and --dry-run")


@pytest.mark.parametrize("content", ["", "{}", '{"layers": []}', '{"machine": 3, "milliseconds": {}}'])
def test_a_table_that_is_none(clock: MadeUpClock, folder: Path, content: str) -> None:
    Path("t.json").write_text(content)
    message = fails(folder, *CONVERT, "--cost", "latency", "--latency-table", "t.json")
    assert message.startswith("error: --latency-table t.json: not a latency table (")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("in.onnx", "in.onnx: is to hold two different files"),
        ("out.onnx", "out.onnx: is to hold two different files"),
        (".", ".: is a folder, wanted a file name"),
        ("nowhere/t.json", "nowhere/t.json: folder 'nowhere' does not exist: make it first"),
        ("data.npy", "--latency-table data.npy: "),
    ],
)
def test_places_a_table_cannot_have(clock: MadeUpClock, folder: Path, path: str, message: str) -> None:
    assert message in fails(folder, *CONVERT, "--cost", "latency", "--latency-table", path)
    assert clock.layers == clock.networks == []


def test_a_cache_that_cannot_be_had_is_nothing_to_speak_of(
    clock: MadeUpClock, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("in the way")
    result = works(*CONVERT, "--cost", "latency")
    assert "warning" not in result.stderr
    Path("out.onnx").unlink()
    monkeypatch.setattr(layer_latency, "user_cache_path", lambda name: folder / name)
    works(*CONVERT, "--cost", "latency")
    (file,) = folder.rglob("latency-*.json")
    file.write_bytes(os.urandom(200))
    works(*CONVERT, "--cost", "latency", "--force")
    assert LatencyTable.from_json(file.read_text(), "test").milliseconds


# Usage


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latency-table", "t.json"], "--latency-table goes with --cost latency"),
        (["--latency-table", "t.json", "--cost", "params"], "--latency-table goes with --cost latency"),
        (["--cost", "latency", "--no-bench"], "--cost latency is measured: leave out --no-bench"),
        (["--cost", "joules"], "Invalid value for '--cost'"),
    ],
)
def test_usage_errors(folder: Path, words: list[str], message: str) -> None:
    result = call(*CONVERT, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("out.onnx").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interruption_while_layers_are_timed(clock: MadeUpClock, folder: Path) -> None:
    def interrupted(model: onnx.ModelProto | Path) -> float:
        raise KeyboardInterrupt

    clock.milliseconds = interrupted
    message = fails(folder, *CONVERT, "--cost", "latency", "--latency-table", "t.json", code=130)
    assert message == "error: interrupted: nothing was written"


def test_a_model_of_fixed_batch_is_timed_at_it(clock: MadeUpClock, folder: Path) -> None:
    onnx.save(network(batch="4"), "in.onnx")
    np.save("data.npy", normal(0, 60, 3, 12, 12))
    result = works(*CONVERT[:-1], "1.5")
    assert "batch 4" in result.stdout
