"""``inspect --energy``: ranks that keep a share of a layer's energy, against singular values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.linalg

from onnx_lowrank import inspect
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.pipeline import open_conversion
from onnx_lowrank.ranks import ranks_keeping
from onnx_lowrank.settings import Settings
from tests.command_line import fails, works
from tests.helpers import build, filters, run, sampled
from tests.networks import images, network

SHARES = ("0.9", "0.95", "0.99", "0.999")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model and data for it."""
    onnx.save(network(), tmp_path / "in.onnx")
    np.save(tmp_path / "data.npy", images())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ranks_are_those_of_the_singular_values(folder: Path) -> None:
    found = json.loads(works("inspect", "in.onnx", "--energy", "--data", "data.npy", "--json", "--quiet").stdout)
    assert found["source"] == "48 samples of data.npy (60 samples)"
    settings = Settings(provider="cpu", method="channel")
    _, opened, calibration = open_conversion(network(), images(), None, settings)
    feeds = calibration.samples.read(calibration.split.calibration)
    layers = {layer["name"]: layer for layer in found["layers"]}
    for layer in opened.eligible:
        if len(layer.positions) != 2:
            continue
        response = run(network(), feeds, [layer.response])[layer.response]
        rows = sampled(response, calibration.positions[layer.name]).astype(np.float64)
        squares = scipy.linalg.svdvals(rows - rows.mean(0)) ** 2
        kept = np.cumsum(squares) / squares.sum()
        for share in SHARES:
            rank = layers[layer.name]["energy_ranks"][share]
            assert kept[rank - 1] >= float(share) - 1e-6
            assert rank == 1 or kept[rank - 2] < float(share) + 1e-6
    assert [layer["name"] for layer in found["layers"]] == ["c1", "c2", "c3", "scores"]


def test_a_table_for_people(folder: Path) -> None:
    shown = works("inspect", "in.onnx", "--energy", "--data", "data.npy", "--samples", "30")
    found = inspect("in.onnx", energy=True, data="data.npy", samples=30)
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["layer", "filters", "90%", "95%", "99%", "99.9%"]
    ranks = found.ranks("c2")
    assert ranks is not None
    assert lines[2].split() == ["c2", "16", *map(str, ranks.values())]
    assert lines[-1].endswith("from 30 samples of data.npy (60 samples)")
    assert max(map(len, lines)) <= 120


def test_made_up_images_where_there_are_no_data(folder: Path) -> None:
    shown = works("inspect", "in.onnx", "--energy", "--samples", "20")
    assert "warning: no data: synthetic images take their place" in shown.stderr
    assert "from 20 samples of synthetic images" in shown.stdout


def test_layers_that_stay_have_none_and_groups_say_so(folder: Path) -> None:
    graph = """g (float[N,64,6,6] x) => (float[N,64,6,6] y) {
        a = Conv<pads=[1,1,1,1], group=2>(x, w)
        y = Conv<pads=[1,1,1,1], group=64>(a, u)
    }"""
    onnx.save(build(graph, {"w": filters(0, 64, 32, 3, 3), "u": filters(1, 64, 1, 3, 3)}), "groups.onnx")
    np.save("wide.npy", images(30, 6, 64))
    shown = works("inspect", "groups.onnx", "--energy", "--data", "wide.npy")
    first, second = shown.stdout.splitlines()[1:3]
    assert first.split()[:2] == ["a", "32"]
    assert first.rstrip().endswith("each of 2 groups")
    assert "stays: depthwise convolution" in second
    found = json.loads(works("inspect", "groups.onnx", "--energy", "--data", "wide.npy", "--json", "--quiet").stdout)
    assert found["layers"][1]["energy_ranks"] is None


def test_without_it_nothing_is_new(folder: Path) -> None:
    found = inspect("in.onnx").to_dict()
    assert "source" not in found
    assert "energy_ranks" not in found["layers"][0]
    assert inspect("in.onnx").ranks("c1") is None


def test_errors(folder: Path) -> None:
    assert "gone" in fails(folder, "inspect", "in.onnx", "--energy", "--data", "gone")
    with pytest.raises(CalibrationError, match="wanted 999"):
        inspect("in.onnx", energy=True, data="data.npy", samples=999)
    onnx.save(build("g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 12] y) { y = Relu (x) }"), "plain.onnx")
    with pytest.raises(ModelError, match="there is nothing to factorize"):
        inspect("plain.onnx", energy=True, data="data.npy")


def test_ranks_of_responses_that_never_vary() -> None:
    assert ranks_keeping(np.ones(5), [0.9, 0.999]) == [1, 1]
    assert ranks_keeping(np.array([0.0, 0.9, 1.0]), [0.9, 0.95]) == [1, 2]
