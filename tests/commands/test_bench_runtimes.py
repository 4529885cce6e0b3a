"""bench() in several runtimes: tables, ratios, what they compute otherwise, and networks that do not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_lowrank import Pace, bench
from onnx_lowrank.commands import bench as command
from onnx_lowrank.errors import MissingDependencyError, ModelError
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from tests.command_line import call, works
from tests.helpers import Feeds, build, filters
from tests.stand_in_runtime import StandIn

SHORT = Pace(rounds=2, repeats=3, seconds=0, warm_up=1)
CALL = ("--rounds", "2", "--repeats", "3", "--threads", "1", "--provider", "cpu")


def halved(number: int, outputs: Feeds) -> Feeds:
    """The second network computes half of what it should."""
    return {name: values / 2 if number == 1 else values for name, values in outputs.items()}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> dict[str, StandIn]:
    found = {"ncnn": StandIn(halved), "mnn": StandIn(name="mnn", version="3.6.1", unable=[0])}

    def opened(name: str, provider: Any) -> Any:
        return OnnxRuntime(provider) if name == "onnxruntime" else found[name]

    monkeypatch.setattr(command, "open_runtime", opened)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for seed, name in enumerate(("a.onnx", "b.onnx")):
        model = build("g (float[N,3,6,6] x) => (float[N,4,4,4] y) { y = Conv(x, w) }", {"w": filters(seed, 4, 3, 3, 3)})
        onnx.save(model, here / name)
    return here


WARNING = (
    "b.onnx: in ncnn 7.0, output 'y' differs by 50 %, compared with onnxruntime (up to 1 % is usual in f32): do not "
    "deploy it there unchecked; another release of ncnn or of its converter may help"
)


def test_all_fields(stand_ins: dict[str, StandIn], folder: Path) -> None:
    found = bench(["a.onnx", "b.onnx"], provider="cpu", threads=1, pace=SHORT, runtime=("ncnn", "onnxruntime", "mnn"))
    facts = json.loads(json.dumps(found.to_dict()))
    ncnn, own, mnn = facts["runtimes"]
    assert [each["runtime"]["name"] for each in facts["runtimes"]] == ["ncnn", "onnxruntime", "mnn"]
    assert ncnn["runtime"] == {"name": "ncnn", "version": "7.0", "precision": "f32", "threads": 1}
    first, second = ncnn["models"]
    assert list(first) == [
        *["path", "inputs", "median_ms", "p10_ms", "p90_ms", "runs", "ratio_to_first", "interval", "steady"],
        *["differences", "error"],
    ]
    assert (first["ratio_to_first"], first["runs"], first["differences"]) == (1, 6, {"y": 0})
    assert second["ratio_to_first"] == first["median_ms"] / second["median_ms"]
    assert second["differences"] == {"y": pytest.approx(0.5)}
    assert ncnn["warnings"] == [WARNING]
    assert [{**model, "differences": {}, "error": None} for model in facts["models"]] == own["models"]
    broken, alone = mnn["models"]
    assert broken == {
        "path": "a.onnx",
        "differences": {},
        "error": "model: pnnx cannot convert it for ncnn: no layer 0",
    }
    assert (alone["ratio_to_first"], alone["interval"], alone["error"]) == (None, None, None)
    assert alone["median_ms"] > 0


def test_without_onnxruntime_its_fields_stay_and_are_empty(stand_ins: dict[str, StandIn], folder: Path) -> None:
    facts = bench(["a.onnx"], provider="cpu", pace=SHORT, runtime="ncnn").to_dict()
    assert facts["models"] == []
    assert len(facts["runtimes"]) == 1


def test_one_named_twice_runs_once(stand_ins: dict[str, StandIn], folder: Path) -> None:
    assert len(bench(["a.onnx"], provider="cpu", pace=SHORT, runtime=("ncnn", "ncnn")).runtimes) == 1


def test_where_nothing_runs_it_is_an_error(stand_ins: dict[str, StandIn], folder: Path) -> None:
    with pytest.raises(ModelError, match="pnnx cannot convert it for ncnn: no layer 0"):
        bench(["a.onnx"], provider="cpu", pace=SHORT, runtime="mnn")


def test_runtimes_that_are_missing_are_an_error_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def opened(name: str, provider: Any) -> Any:
        raise MissingDependencyError(f"runtime '{name}': missing")

    monkeypatch.setattr(command, "open_runtime", opened)
    monkeypatch.setattr(command, "open_networks", lambda *_: pytest.fail("a model is read"))
    with pytest.raises(MissingDependencyError, match="runtime 'ncnn': missing"):
        bench(["a.onnx"], provider="cpu", runtime=("ncnn", "mnn"))


# In the command line


def test_a_table_for_each_on_80_columns(stand_ins: dict[str, StandIn], folder: Path) -> None:
    tables = works("bench", "a.onnx", "b.onnx", *CALL, "--runtime", "ncnn,mnn").stdout.split("\n\n")
    assert len(tables) == 2
    where, title, first, second, *rest = tables[0].splitlines()
    assert where.endswith(", 1 thread, ncnn 7.0 in f32")
    assert title == "median ms   p10 ms   p90 ms   ratio       interval   differs   model"
    assert first.split()[3:] == ["1.00x", "0.0e+00", "a.onnx"]
    assert second.split()[-2:] == ["5.0e-01", "b.onnx"]
    assert max(map(len, (where, title, first, second))) <= 80
    assert f"warning: {WARNING}" in rest
    assert tables[1].splitlines()[3] == "does not run: model: pnnx cannot convert it for ncnn: no layer 0"


@pytest.mark.parametrize("names", ["tvm", "ncnn,tvm", "ncnn,", "ncnn:f16"])
def test_runtimes_that_are_none(names: str, folder: Path) -> None:
    found = call("bench", "a.onnx", "--runtime", names)
    assert found.exit_code == 2
    wrong = names.rpartition(",")[2]
    assert f"'{wrong}' is not one of onnxruntime, openvino, openvino:f32, ncnn, ncnn:f32, mnn" in found.stderr


@pytest.mark.parametrize(("runtime", "module"), [("openvino:f32", "openvino"), ("ncnn", "pnnx"), ("mnn", "_tools")])
def test_real_runtimes_print_nothing_else(
    runtime: str, module: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(module, reason=f"runtime {runtime} is not installed")
    capfd.readouterr()  # MNN says something at its first import
    found = json.loads(works("bench", "a.onnx", "b.onnx", *CALL, "--runtime", runtime, "--json").stdout)
    (timings,) = found["runtimes"]
    assert timings["runtime"]["name"] == runtime.partition(":")[0]
    assert all(model["differences"]["y"] < 1e-5 for model in timings["models"])
    assert sorted(path.name for path in folder.iterdir()) == ["a.onnx", "b.onnx"]
    assert capfd.readouterr() == ("", "")
