"""Models whose weights are in files of their own: too many for one message, or made out to be so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lowrank import bench, compare, convert, inspect
from onnx_lowrank.errors import ModelError, OutputError, VerificationError
from onnx_lowrank.graph import read_model
from onnx_lowrank.graph.tensors import is_external
from tests.command_line import fails, works
from tests.helpers import build, filters, normal, relative
from tests.networks import images, network

Array = NDArray[Any]
IMAGES = images(40)


@pytest.fixture(autouse=True)
def _small_limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small models treated as those are that are too large for the memory, and for one file."""
    if request.node.get_closest_marker("nightly") is None:  # which has the real size
        monkeypatch.setattr("onnx_lowrank.graph.read.MAX_LOADED_BYTES", 1_000)
        monkeypatch.setattr("onnx_lowrank.graph.write.MAX_FILE_BYTES", 5_000)
        monkeypatch.setattr("onnx_lowrank.graph.write.ALIGNMENT_BYTES", 64)


def saved(folder: Path, name: str = "net.onnx") -> Path:
    """The network with all its weights in a second file."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    onnx.save(network(), path, save_as_external_data=True, location=f"{name}.weights", size_threshold=0)
    return path


def outside(path: Path) -> list[str]:
    """Names of the tensors that a file leaves to others."""
    return [t.name for t in onnx.load(path, load_external_data=False).graph.initializer if is_external(t)]


def outputs(path: Path) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": IMAGES})[0])


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_weights_stay_outside_and_read_the_same(tmp_path: Path) -> None:
    read = read_model(saved(tmp_path))
    assert all(map(is_external, read.graph.initializer))
    assert len(read.SerializeToString()) < 5_000
    assert inspect(tmp_path / "net.onnx").to_dict() == inspect(network()).to_dict()


def test_the_conversion_is_that_of_the_model_in_memory(tmp_path: Path) -> None:
    path, out = saved(tmp_path / "in"), tmp_path / "out.onnx"
    before = content(path.parent)
    result = convert(path, {"x": IMAGES}, speedup=2, output=out)
    assert content(path.parent) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.onnx", "out.onnx.data"]
    assert outside(out)
    wanted = convert(network(), {"x": IMAGES}, speedup=2, output=tmp_path / "whole.onnx")
    np.testing.assert_array_equal(outputs(out), outputs(tmp_path / "whole.onnx"))
    assert result.report.verification == wanted.report.verification
    onnx.checker.check_model(str(out))
    # Weights lie close behind each other, where they can be mapped.
    tensors = [t for t in onnx.load(out, load_external_data=False).graph.initializer if is_external(t)]
    places = [{each.key: each.value for each in tensor.external_data} for tensor in tensors]
    offsets, lengths = ([int(place[key]) for place in places] for key in ("offset", "length"))
    assert len(tensors) > 2
    assert all(offset % 64 == 0 for offset in offsets)
    gaps = [after - before - length for before, after, length in zip(offsets, offsets[1:], lengths, strict=False)]
    assert all(0 <= gap < 64 for gap in gaps)
    # What is read back is the network that was written, and every command takes it.
    assert inspect(out).macs == result.report.macs[1]
    assert compare(path, out, {"x": IMAGES}).outputs["scores"].relative_error < 0.3
    assert len(bench([path, out]).models) == 2


def test_what_fits_into_one_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.graph.write.MAX_FILE_BYTES", 2**20)
    path, out = saved(tmp_path / "in"), tmp_path / "out.onnx"
    convert(path, {"x": IMAGES}, speedup=2, output=out, bench=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.onnx"]
    assert outside(out) == []
    (tmp_path / "alone").mkdir()
    moved = out.rename(tmp_path / "alone" / "out.onnx")
    assert relative(outputs(path), outputs(moved)) < 0.3


def test_old_weights_are_replaced_not_added_to(tmp_path: Path) -> None:
    path, out, data = saved(tmp_path / "in"), tmp_path / "out.onnx", tmp_path / "x.npy"
    np.save(data, IMAGES)
    words = (str(path), str(out), "--data", str(data), "--speedup", "2", "--no-bench")
    works(*words)
    first = content(tmp_path)
    works(*words, "--force")
    assert content(tmp_path) == first


def test_nothing_changes_when_verification_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = saved(tmp_path / "in"), tmp_path / "out.onnx"
    convert(path, {"x": IMAGES}, speedup=1.5, output=out, bench=False)
    before = content(tmp_path)
    monkeypatch.setattr("onnx_lowrank.verify.fidelity.WORST_ERROR", 1e-9)
    monkeypatch.setattr("onnx_lowrank.verify.fidelity.WORST_AGREEMENT", 1.1)
    with pytest.raises(VerificationError):
        convert(path, {"x": IMAGES}, speedup=3, output=out, force=True, bench=False)
    assert content(tmp_path) == before


def test_old_weights_come_back_when_the_model_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = saved(tmp_path / "in"), tmp_path / "out.onnx"
    convert(path, {"x": IMAGES}, speedup=1.5, output=out, bench=False)
    before, replace = content(tmp_path), Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == out:
            raise PermissionError(1, "Operation not permitted")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="Operation not permitted"):
        convert(path, {"x": IMAGES}, speedup=3, output=out, force=True, bench=False)
    assert content(tmp_path) == before


def test_the_data_of_the_original_are_never_written_over(tmp_path: Path) -> None:
    path = saved(tmp_path, "net.onnx")
    (tmp_path / "net.onnx.weights").rename(tmp_path / "out.onnx.data")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "out.onnx.data"
    path.write_bytes(model.SerializeToString())
    np.save(tmp_path / "x.npy", IMAGES)
    error = fails(tmp_path, str(path), str(tmp_path / "out.onnx"), "--data", str(tmp_path / "x.npy"))
    assert "its weights would go to 'out.onnx.data', which holds those of the model that is read" in error


def test_a_model_in_memory_brings_its_weights() -> None:
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(ModelError, match="model in memory: some of its weights are in other files: save it and pass"):
        inspect(model)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("offset", "x", "invalid literal"),
        ("offset", "-1", r"has 26948 bytes, wanted \d+ from byte -1 on"),
        ("length", "-4", "wanted -4 from byte"),
        ("length", "999999999", "wanted 999999999 from byte"),
        ("location", "\0", "null byte"),
        ("location", "none.bin", "external data file 'none.bin' of tensor 'w1' is missing"),
        ("location", ".", "external data file '.' of tensor 'w1' is missing"),
        ("checksum", "0", None),
        ("oddity", "0", None),
    ],
)
def test_places_that_make_no_sense(tmp_path: Path, key: str, value: str, found: str | None) -> None:
    path = saved(tmp_path)
    size = (tmp_path / "net.onnx.weights").stat().st_size
    model = onnx.load(path, load_external_data=False)
    fields = model.graph.initializer[0].external_data
    entry = next((each for each in fields if each.key == key), None) or fields.add(key=key)
    entry.value = value
    path.write_bytes(model.SerializeToString())
    if found is None:
        assert len(inspect(path).rows) == 4
        return
    with pytest.raises(ModelError, match=found.replace("26948", str(size))):
        inspect(path)


@pytest.mark.nightly
def test_a_model_of_more_than_two_gibibytes(tmp_path: Path) -> None:
    """A table that takes no room on the disk, being all holes but for its ends, in front of two convolutions."""
    rows, columns = 2**29 + 1024, 1
    graph = """g (float[N, 3, 12, 12] x) => (float[N, 16, 12, 12] y, float[2, 1] found) {
        found = Gather (table, places)
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        y = Relu (c2)
    }"""
    model = build(
        graph, {"w1": filters(0, 16, 3, 3, 3), "w2": filters(1, 16, 16, 3, 3), "places": np.array([0, rows - 1])}
    )
    ends = normal(2, 2)
    with (tmp_path / "table.bin").open("wb") as file:
        file.write(ends[:1].tobytes())
        file.seek(4 * (rows - 1))
        file.write(ends[1:].tobytes())
    table = model.graph.initializer.add(name="table", data_type=TensorProto.FLOAT, dims=[rows, columns])
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="table.bin")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    out = tmp_path / "out" / "fast.onnx"
    out.parent.mkdir()
    convert(tmp_path / "net.onnx", {"x": IMAGES}, speedup=1.5, output=out, bench=False)
    assert sorted(path.name for path in out.parent.iterdir()) == ["fast.onnx", "fast.onnx.data"]
    assert (out.parent / "fast.onnx.data").stat().st_size > 2**31
    assert outside(out) == ["table"]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["found"], {"x": IMAGES})[0][:, 0], ends)
