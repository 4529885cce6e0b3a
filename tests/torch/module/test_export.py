"""Programs of torch.export, loaded again, against onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from onnx_lowrank.errors import ModelError, OutputError
from onnx_lowrank.torch import export_torch, save_program
from tests.command_line import fails, works
from tests.helpers import build, filters, normal, run
from tests.networks import images, network
from tests.torch.oracle import WHOLE, as_tuple
from tests.torch.pairs import in_onnxruntime_alone, pair

Array = NDArray[Any]


def loaded(path: Path) -> torch.nn.Module:
    module: torch.nn.Module = torch.export.load(path).module()
    return module


def assert_same(module: torch.nn.Module, model: onnx.ModelProto, *batches: Array) -> None:
    """Every output is as onnxruntime finds it."""
    wanted = run(model, dict(zip((value.name for value in model.graph.input), batches, strict=True)))
    with torch.no_grad():
        found = as_tuple(module(*map(torch.from_numpy, batches)))
    assert len(found) == len(wanted)
    for (name, want), have in zip(wanted.items(), found, strict=True):
        assert (have.shape, have.numpy().dtype) == (want.shape, want.dtype), name
        assert np.abs(have.numpy() - want).max() <= WHOLE * max(1.0, np.abs(want).max()), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted networks."""
    place = tmp_path_factory.mktemp("models")
    for name in ("scores", "fixed batch", "channels last"):
        onnx.save(pair(name).converted, place / f"{name.replace(' ', '_')}.onnx")
    return place


def test_an_open_batch_stays_open(folder: Path, tmp_path: Path) -> None:
    model, path = folder / "scores.onnx", tmp_path / "scores.pt2"
    result = works("export-torch", str(model), str(path))
    assert result.stdout == f"written     {path}\n"
    assert list(tmp_path.iterdir()) == [path]
    module = loaded(path)
    for count in (1, 2, 7):
        assert_same(module, onnx.load(model), images(count, 12, seed=count))


def test_a_fixed_batch_stays_fixed(folder: Path, tmp_path: Path) -> None:
    model, path = folder / "fixed_batch.onnx", tmp_path / "fixed.pt2"
    assert works("export-torch", str(model), str(path), "--quiet").output == ""
    assert_same(loaded(path), onnx.load(model), images(4, 12))
    with pytest.raises((AssertionError, RuntimeError)):
        loaded(path)(torch.zeros(3, 3, 12, 12))


@pytest.mark.parametrize("shape", ["x:1,16,24,3", "2x16x24x3"])
def test_channels_may_come_last_and_open_sizes_are_given(folder: Path, tmp_path: Path, shape: str) -> None:
    model, path = folder / "channels_last.onnx", tmp_path / "last.pt2"
    error = fails(tmp_path, "export-torch", str(model), str(path))
    assert error == f"error: {model}: input 'x' has open axes (1,?,?,3): pass --input-shapes x:1,?,?,3"
    works("export-torch", str(model), str(path), "--input-shapes", shape)
    for count in (1, 5):
        batch = np.ascontiguousarray(images(count, 24, seed=count).transpose(0, 2, 3, 1)[:, :16])
        assert_same(loaded(path), pair("channels last").converted, batch)


def test_several_inputs_in_the_network_s_order(tmp_path: Path) -> None:
    text = "g (float[N,2,4,4] b, float[N,1] a) => (float[N,2] y, float[N,A,B,C] c) { %s }"
    body = "c = Conv (b, w)  p = GlobalAveragePool (c)  f = Flatten (p)  y = Mul (f, a)"
    model = build(text % body, {"w": filters(0, 2, 2, 3, 3)})
    save_program(export_torch(model), tmp_path / "x.pt2")
    assert_same(loaded(tmp_path / "x.pt2"), model, normal(1, 3, 2, 4, 4), normal(2, 3, 1))


def test_a_program_is_of_torch_alone(tmp_path: Path) -> None:
    program = export_torch(network())
    assert isinstance(program, ExportedProgram)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert targets
    assert not [each for each in targets if "onnx" in each]


def test_weights_keep_their_names() -> None:
    assert {"w1", "b1", "w3", "f"} <= {*export_torch(network()).state_dict}


# Errors


def test_out_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_text("mine")
    error = fails(tmp_path, "export-torch", str(folder / "scores.onnx"), str(path))
    assert error == f"error: {path}: exists already: choose another name, or overwrite it with --force"
    works("export-torch", str(folder / "scores.onnx"), str(path), "--force", "--quiet")
    assert_same(loaded(path), onnx.load(folder / "scores.onnx"), images(3, 12))


def test_the_model_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(network(), path)
    error = fails(tmp_path, "export-torch", str(path), str(path), "--force")
    assert "is the model that is read, which is never written" in error


def test_a_missing_folder_is_said(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "none" / "x.pt2"
    error = fails(tmp_path, "export-torch", str(folder / "scores.onnx"), str(path))
    assert error == f"error: {path}: folder '{path.parent}' does not exist: make it first"


def test_a_missing_model_is_said(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.onnx'}: no such file" in fails(
        tmp_path, "export-torch", str(tmp_path / "none.onnx"), str(tmp_path / "x.pt2")
    )


def test_an_operator_that_pytorch_has_not_is_said(tmp_path: Path) -> None:
    """Of a network that onnxruntime runs."""
    onnx.save(in_onnxruntime_alone(), tmp_path / "odd.onnx")
    error = fails(tmp_path, "export-torch", str(tmp_path / "odd.onnx"), str(tmp_path / "x.pt2"))
    assert "QuickGelu 'quick'" in error
    assert "there is no such operator in PyTorch" in error


def test_what_depends_on_numbers_is_said() -> None:
    """Which rows there are is known only when it runs; or it can be exported all the same."""
    text = "g (float[N,6] x) => (int64[A,B] y) { y = NonZero (x) }"
    try:
        program = export_torch(build(text))
    except ModelError as error:
        assert str(error).startswith("<model>: ")  # noqa: PT017
    else:
        batch = normal(0, 3, 6) > 0
        assert_same(program.module(), build(text), batch.astype(np.float32))


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, path = export_torch(network()), tmp_path / "x.pt2"
    path.write_text("old")

    def half(_: ExportedProgram, file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", half)
    with pytest.raises(OutputError, match="x.pt2: cannot be written .No space left on device.: free some space"):
        save_program(program, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_can_be_read_by_others(tmp_path: Path) -> None:
    """As any other new file."""
    save_program(export_torch(network()), tmp_path / "x.pt2")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "x.pt2").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_paths_and_models_give_the_same(folder: Path) -> None:
    path = folder / "scores.onnx"
    batch = torch.from_numpy(images(2, 12))
    found = [export_torch(each).module()(batch) for each in (path, os.fspath(path), onnx.load(path))]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
