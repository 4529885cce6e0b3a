"""``--save-plan``, an editor, ``--plan``: the round trip, and what an editor may get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.command_line import call, fails, works
from tests.networks import images, network

COMMON = ("--data", "data.npy", "--no-bench", "--quiet")
Edit = Callable[[dict[str, dict[str, Any]]], None]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The rank plan of a dry run."""
    place = tmp_path_factory.mktemp("plan")
    onnx.save(network(), place / "in.onnx")
    np.save(place / "data.npy", images())
    words = (str(place / "in.onnx"), "--dry-run", "--data", str(place / "data.npy"), "--no-bench", "--quiet")
    works(*words, "--speedup", "2", "--save-plan", str(place / "p.json"))
    return (place / "p.json").read_text()


@pytest.fixture
def folder(folder: Path, plan: str) -> Path:
    """A folder with a model, data, and the plan of a dry run."""
    (folder / "p.json").write_text(plan)
    return folder


def edited(edit: Edit) -> None:
    """Change the entries of the plan, by layer name."""
    plan = json.loads(Path("p.json").read_text())
    edit({entry["name"]: entry for entry in plan["layers"]})
    Path("p.json").write_text(json.dumps(plan))


def entries(file: str) -> list[dict[str, Any]]:
    """A plan but for the last layer, which a plan may name and nothing else would: its rows are too few."""
    return [entry for entry in json.loads(Path(file).read_text())["layers"] if entry["name"] != "scores"]


def test_an_unchanged_plan_makes_the_same_model(folder: Path) -> None:
    works("in.onnx", "a.onnx", "--speedup", "2", *COMMON)
    works("in.onnx", "b.onnx", "--plan", "p.json", "--save-plan", "q.json", *COMMON)
    assert entries("q.json") == entries("p.json")
    assert onnx.load("a.onnx").graph == onnx.load("b.onnx").graph


def test_ranks_changed_by_hand_are_the_ranks_of_the_model(folder: Path) -> None:
    def edit(layers: dict[str, dict[str, Any]]) -> None:
        layers["c1"] |= {"method": "kept", "ranks": {}}
        layers["c2"] |= {"method": "channel", "ranks": {"channel": 5}}
        layers["c3"] |= {"method": "spatial-channel", "ranks": {"channel": 7, "spatial": 9}}

    edited(edit)
    works("in.onnx", "o.onnx", "--plan", "p.json", "--report", "r.json", "--save-plan", "q.json", *COMMON)
    assert entries("q.json") == entries("p.json")
    found = {layer["name"]: layer for layer in json.loads(Path("r.json").read_text())["layers"]}
    assert [(found[name]["method"], found[name]["ranks"]) for name in ("c1", "c2", "c3")] == [
        ("kept", {"channel": None, "spatial": None, "input": None}),
        ("channel", {"channel": 5, "spatial": None, "input": None}),
        ("spatial-channel", {"channel": 7, "spatial": 9, "input": None}),
    ]
    assert json.loads(Path("r.json").read_text())["speedup"]["requested"] is None
    shapes = [list(tensor.dims) for tensor in onnx.load("o.onnx").graph.initializer]
    for wanted in ([16, 3, 3, 3], [5, 16, 3, 3], [16, 5, 1, 1], [9, 16, 3, 1], [7, 9, 1, 3], [16, 7, 1, 1]):
        assert wanted in shapes
    assert [16, 16, 3, 3] not in shapes


def test_a_plan_with_an_input_rank(folder: Path) -> None:
    def edit(layers: dict[str, dict[str, Any]]) -> None:
        layers["c1"] |= {"method": "kept", "ranks": {}}
        layers["c2"] |= {"method": "input", "ranks": {"input": 5}}
        layers["c3"] |= {"method": "tucker", "ranks": {"channel": 7, "input": 9}}

    edited(edit)
    works("in.onnx", "o.onnx", "--plan", "p.json", "--report", "r.json", "--save-plan", "q.json", *COMMON)
    assert entries("q.json") == entries("p.json")
    found = {layer["name"]: layer for layer in json.loads(Path("r.json").read_text())["layers"]}
    assert found["c2"]["ranks"] == {"channel": None, "spatial": None, "input": 5}
    assert found["c3"]["ranks"] == {"channel": 7, "spatial": None, "input": 9}
    shapes = [list(tensor.dims) for tensor in onnx.load("o.onnx").graph.initializer]
    for wanted in ([5, 16, 1, 1], [16, 5, 3, 3], [9, 16, 1, 1], [7, 9, 3, 3], [16, 7, 1, 1]):
        assert wanted in shapes
    assert [16, 16, 3, 3] not in shapes


def test_a_layer_left_out_stays(folder: Path) -> None:
    plan = json.loads(Path("p.json").read_text())
    plan["layers"] = [{"name": "c2", "method": "channel", "ranks": {"channel": 4}}]
    Path("p.json").write_text(json.dumps(plan))
    works("in.onnx", "o.onnx", "--plan", "p.json", "--report", "r.json", *COMMON)
    found = json.loads(Path("r.json").read_text())["layers"]
    assert [layer["method"] for layer in found] == ["kept", "channel", "kept", "kept"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": {"channel": 17}}, "Conv 'c2': channel rank must be 1..16 (16 filters), got 17: change it in"),
        ({"ranks": {"channel": 0}}, "Conv 'c2': channel rank must be 1..16 (16 filters), got 0: change it in the plan"),
        ({"ranks": {"channel": "8"}}, "Conv 'c2': channel rank must be 1..16 (16 filters), got 8: change it in"),
        ({"ranks": {"channel": 2.5}}, "Conv 'c2': channel rank must be 1..16 (16 filters), got 2.5"),
        ({"ranks": {"channel": None}}, "Conv 'c2': channel rank must be 1..16 (16 filters), got None"),
        ({"ranks": {}}, "--plan p.json: not a rank plan (KeyError: 'channel'), wanted"),
        ({"ranks": {"spatial": 3}}, "--plan p.json: not a rank plan (KeyError: 'channel'), wanted"),
        ({"method": "spatial", "ranks": {"spatial": 49}}, "Conv 'c2': spatial rank must be 1..48 (16 filters), got 49"),
        ({"method": "chanel"}, "method 'chanel' of 'c2' is not one of kept, channel, spatial, spatial-channel"),
        ({"name": "c9"}, "plan: no layer 'c9' that can be factorized, the model has c1, c2, c3, scores, ...: list"),
        ({"name": "c1"}, "plan: a layer is named twice: leave one entry per layer"),
    ],
)  # fmt: skip
def test_what_an_editor_may_get_wrong(folder: Path, change: dict[str, Any], message: str) -> None:
    def edit(layers: dict[str, dict[str, Any]]) -> None:
        layers["c2"] |= {"method": "channel", "ranks": {"channel": 4}} | change

    edited(edit)
    assert message in fails(folder, "in.onnx", "o.onnx", "--plan", "p.json", *COMMON)


@pytest.mark.parametrize("speedup", ["2", "4"])  # the default too, where it is given
def test_a_plan_and_a_speedup_exclude_each_other(folder: Path, speedup: str) -> None:
    result = call("in.onnx", "o.onnx", "--plan", "p.json", "--speedup", speedup, *COMMON)
    assert result.exit_code == 2
    assert "--speedup and --plan exclude each other: each says how far to go" in " ".join(result.stderr.split())
    assert not (folder / "o.onnx").exists()


def test_unknown_layer_in_a_plan(folder: Path) -> None:
    Path("p.json").write_text('{"layers": [{"name": "nowhere", "method": "channel", "ranks": {"channel": 4}}]}')
    assert "plan: no layer 'nowhere'" in fails(folder, "in.onnx", "o.onnx", "--data", "data.npy", "--plan", "p.json")


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"layers": 3}', '{"layers": [1]}', '{"layers": [{"name": ["c1"], "method": "kept"}]}']
)
def test_a_plan_that_is_none(folder: Path, text: str) -> None:
    Path("p.json").write_text(text)
    words = ("in.onnx", "o.onnx", "--data", "data.npy", "--plan", "p.json")
    assert fails(folder, *words).startswith("error: --plan p.json: not a rank plan (")
