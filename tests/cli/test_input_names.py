"""Names of inputs as graph exporters write them, with slashes, colons and equals signs, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_lowrank.cli.options import data_files, read_data
from tests.command_line import call, fails, works
from tests.helpers import add_initializers, build, filters
from tests.networks import images

TOP, TOP2, LOW = "tower/top:0", "tower/top:0=a", "tower\\low:0"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with three inputs and a file for each."""
    model = build(
        "g () => (float[N, 8, h, w] y) { x = Concat <axis = 1> (a, b, c)  r = Conv (x, w1)  y = Conv (r, w2)}"
    )
    for names in (model.graph.node[0].input,):
        names[:] = [TOP, TOP2, LOW]
    sizes: list[str | int | None] = ["N", 1, "height", "width"]
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in (TOP, TOP2, LOW))
    add_initializers(model, {"w1": filters(0, 16, 3, 3, 3), "w2": filters(1, 8, 16, 3, 3)})
    onnx.save(model, tmp_path / "in.onnx")
    for channel, name in enumerate(["top.npy", "b=c.npy", "low.npy"]):
        np.save(tmp_path / name, images()[:, [channel]])
    monkeypatch.chdir(tmp_path)
    return tmp_path


DATA = ("--data", f"{TOP}=top.npy", "--data", f"{TOP2}=b=c.npy", "--data", f"{LOW}=low.npy")
MODEL = Path("in.onnx")


def test_the_longest_name_of_an_input_that_fits_is_the_name(folder: Path) -> None:
    assert read_data(DATA[1::2], None, MODEL) == {TOP: "top.npy", TOP2: "b=c.npy", LOW: "low.npy"}
    assert {path.name for path in data_files(DATA[1::2], None)} == {"top.npy", "b=c.npy", "low.npy"}
    works("in.onnx", "out.onnx", *DATA, "--speedup", "1.3", "--no-bench", "--report", "r.json")
    source = json.loads(Path("r.json").read_text())["calibration"]["source"]
    assert source == f"{TOP}=top.npy (60 samples), {TOP2}=b=c.npy (60 samples), {LOW}=low.npy (60 samples)"
    found = works("compare", "in.onnx", "out.onnx", *DATA, "--json")
    assert list(json.loads(found.stdout)["outputs"]) == ["y"]


def test_constants_and_shapes_are_given_by_such_names(folder: Path) -> None:
    shapes = [word for name in (TOP, TOP2, LOW) for word in ("--input-shapes", f"{name}:1,1,9,10")]
    found = json.loads(works("inspect", "in.onnx", *shapes, "--json").stdout)["layers"]
    assert [layer["macs"] for layer in found] == [7 * 8 * 16 * 3 * 9, 5 * 6 * 8 * 16 * 9]
    words = ("--data", f"{TOP}=top.npy", "--input", f"{TOP2}=0.5", "--input", f"{LOW}=1", "--input-shapes")
    sizes = [f"{TOP2}:1,1,12,12", "--input-shapes", f"{LOW}:1,1,12,12"]
    error = fails(folder, "in.onnx", "o.onnx", *words, *sizes, "--no-bench", "--quiet", "--speedup", "1000000")
    assert "no input" not in error


@pytest.mark.parametrize("first", [DATA[:4], ()])
def test_the_inputs_are_listed_where_no_name_fits(first: tuple[str, ...]) -> None:
    result = call("in.onnx", "o.onnx", *first, "--data", "tower/down:0=low.npy")
    form = "several --data need" if first else "it needs"
    assert result.exit_code == 2
    assert " ".join(result.stderr.split()).endswith(
        f"--data 'tower/down:0=low.npy': {form} the form NAME=PATH, one for each input of the model, "
        f"which are {TOP}, {TOP2}, {LOW}: correct the name"
    )


@pytest.mark.parametrize(
    "path", ["C:\\set=1\\x.npy", "https://host/x.npz?a=b", "b=c.npy", "photos.zip/train", "photos.zip/a=b", "a:b"]
)
def test_paths_with_colons_and_equals_signs_stay_paths(path: str) -> None:
    assert read_data([path], None, MODEL) == path
    assert read_data([f"{TOP}={path}"], None, MODEL) == {TOP: path}
    assert read_data([f"{TOP}={path}"], None, Path("nowhere.onnx")) == f"{TOP}={path}"
    assert read_data([f"x={path}"], None, Path("nowhere.onnx")) == {"x": path}
