"""``onnx-lowrank samples``: what a network reads, for other tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.command_line import call, fails, works
from tests.helpers import build, filters, normal, run
from tests.networks import network

SIDE = 12


def photos(folder: Path, count: int = 20) -> np.ndarray:
    """Write images of the size of the input, and return their pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return pixels


def test_images_as_the_network_reads_them(folder: Path) -> None:
    pixels = photos(Path("photos"))
    words = ("samples", "in.onnx", "out.npz", "--data", "photos", "--scale", "1", "--mean", "127", "--std", "128")
    shown = works(*words, "--batch-size", "7")
    assert shown.stdout.splitlines() == ["x: 20 x 3 x 12 x 12", "written     out.npz"]
    with np.load("out.npz") as archive:
        assert archive.files == ["x"]
        written = archive["x"]
    wanted = ((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, wanted, rtol=0, atol=1e-6)
    assert run(network(), {"x": written})["scores"].shape == (20, 5)
    compared = json.loads(works("compare", "in.onnx", "in.onnx", "--data", "out.npz", "--json", "--quiet").stdout)
    assert compared["images"] == 20


def test_as_many_as_are_asked_for_drawn_with_the_seed(folder: Path) -> None:
    words = ("samples", "in.onnx", "--data", "data.npy", "--samples", "9", "--quiet")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        works(*words[:2], f"{name}.npz", *words[2:], "--seed", seed)
    a, b, c = (np.load(f"{name}.npz")["x"] for name in "abc")
    every = np.load("data.npy")
    assert len(a) == 9
    assert all(any(np.array_equal(row, each) for each in every) for row in a)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_inputs_of_any_name_and_constants(folder: Path) -> None:
    graph = """g (float[N,3,8,8] file, float[N,3,8,8] other, float[2] k) => (float[N,8,8,8] y) {
        s = Add (file, other)  y = Conv<pads=[1,1,1,1]>(s, w) }"""
    model = build(graph, {"w": filters(0, 8, 3, 3, 3)})
    for node in model.graph.node:
        node.input[:] = ["/tower/a:0" if name == "other" else name for name in node.input]
    model.graph.input[1].name = "/tower/a:0"
    onnx.save(model, "two.onnx")
    arrays = {"file": normal(0, 15, 3, 8, 8), "/tower/a:0": normal(1, 15, 3, 8, 8)}
    for name, array in zip(("f", "o"), arrays.values(), strict=True):
        np.save(f"{name}.npy", array)
    data = ("--data", "file=f.npy", "--data", "/tower/a:0=o.npy", "--input", "k=3,4")
    works("samples", "two.onnx", "out.npz", *data, "--quiet")
    with np.load("out.npz") as archive:
        found = dict(archive)
    assert set(found) == {"file", "/tower/a:0", "k"}
    np.testing.assert_array_equal(found["k"], [3, 4])
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_what_is_there_is_replaced_only_when_forced(folder: Path) -> None:
    Path("out.npz").write_text("mine")
    words = ("samples", "in.onnx", "out.npz", "--data", "data.npy")
    assert fails(folder, *words) == "error: out.npz: exists already: choose another name, or overwrite it with --force"
    works(*words, "--force", "--quiet")
    assert np.load("out.npz")["x"].shape == (60, 3, 12, 12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.onnx", "out.npy", "--data", "data.npy"], "out.npy: .npz is wanted: rename it"),
        (["in.onnx", "out.npz"], "data: none given, sample inputs are wanted: pass --data with a folder of images"),
        (["in.onnx", "nowhere/out.npz", "--data", "data.npy"], "folder 'nowhere' does not exist: make it first"),
        (["none.onnx", "out.npz", "--data", "data.npy"], "none.onnx: no such file, wanted an ONNX model"),
        (
            ["in.onnx", "out.npz", "--data", "data.npy", "--samples", "99"],
            "60 samples, wanted 99: add samples or lower",
        ),
        (["in.onnx", "out.npz", "--data", "bad.npy"], "holds NaN or Inf"),
    ],
)
def test_errors_leave_nothing(folder: Path, words: list[str], message: str) -> None:
    np.save("bad.npy", np.full((20, 3, 12, 12), np.nan, np.float32))
    assert message in fails(folder, "samples", *words, "--quiet")


def test_data_are_not_written_over(folder: Path) -> None:
    works("samples", "in.onnx", "d.npz", "--data", "data.npy", "--quiet")
    assert "d.npz: is read too" in fails(folder, "samples", "in.onnx", "d.npz", "--data", "d.npz", "--force", "--quiet")


def test_usage(folder: Path) -> None:
    result = call("samples", "in.onnx")
    assert result.exit_code == 2
    assert "Missing argument 'OUT.npz'" in result.stderr
