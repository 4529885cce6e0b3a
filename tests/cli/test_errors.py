"""Errors: one line, an exit code, and nothing written."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_lowrank import pipeline
from tests.command_line import call, fails
from tests.helpers import build
from tests.networks import images, network


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.onnx", "o.onnx"], "none.onnx: no such file, wanted an ONNX model: check the path"),
        ([".", "o.onnx"], ".: a folder, wanted an ONNX model"),
        (["in.onnx", "nowhere/o.onnx"], "nowhere/o.onnx: folder 'nowhere' does not exist: make it first"),
        (["in.onnx", "in.onnx", "--force"], "in.onnx: is the model that is read, which is never written"),
        (["compare", "in.onnx", "in.onnx"], "data: none given, sample inputs are wanted: pass --data"),
        (["in.onnx", "o.onnx", "--data", "gone"], "gone"),
        (["in.onnx", "o.onnx", "--data", "empty"], "empty"),
        (["in.onnx", "o.onnx", "--data", "in.onnx"], "in.onnx"),
        (["in.onnx", "o.onnx", "--data", "y=data.npy"], "data: holds y, the model's inputs are x"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--samples", "999"], "60 usable samples, wanted 999"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "900"], "cannot be reached, the largest that can is"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--include", "zzz"], "--include 'zzz': matches none of the 4"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--exclude", "c"], "no layer can be factorized"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--plan", "p.json"], "--plan p.json: cannot be read"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--provider", "tensorrt"], "provider 'tensorrt': this onnxr"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_leave_nothing(folder: Path, words: list[str], message: str) -> None:
    Path("empty").mkdir()
    assert message in fails(folder, *words)


def test_data_of_the_wrong_kind(folder: Path) -> None:
    words = ("in.onnx", "o.onnx", "--data", "bad.npy")
    np.save("bad.npy", images(channels=4))
    assert "shape" in fails(folder, *words)
    np.save("bad.npy", np.full((20, 3, 12, 12), "a"))
    assert "bad.npy" in fails(folder, *words)
    spoiled = images()
    spoiled[:, 0, 0, 0] = np.nan
    np.save("bad.npy", spoiled)
    assert "NaN or Inf" in fails(folder, *words)
    np.save("bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "cannot be read as .npy" in fails(folder, *words)


def test_models_that_are_none(folder: Path) -> None:
    good = Path("in.onnx").read_bytes()
    for content in (b"", b"\x93NUMPY random bytes", os.urandom(500), good[: len(good) // 2]):
        Path("bad.onnx").write_bytes(content)
        assert fails(folder, "bad.onnx", "o.onnx", "--data", "data.npy").startswith("error: bad.onnx: ")
        assert fails(folder, "inspect", "bad.onnx").startswith("error: bad.onnx: ")


def test_a_model_that_onnxruntime_cannot_load_keeps_its_message(folder: Path) -> None:
    model = build("g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 12] y) { y = Imaginary (x) }")
    onnx.save(model, "odd.onnx")
    assert "Imaginary" in fails(folder, "odd.onnx", "o.onnx", "--data", "data.npy")


def test_no_layer_at_all(folder: Path) -> None:
    onnx.save(build("g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 12] y) { y = Relu (x) }"), "plain.onnx")
    assert "no Conv, ConvTranspose, Gemm or MatMul in the graph" in fails(
        folder, "plain.onnx", "o.onnx", "--data", "data.npy"
    )


def test_nan_in_weights(folder: Path) -> None:
    model = network()
    spoiled = numpy_helper.to_array(model.graph.initializer[0]).copy()
    spoiled[0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(spoiled, "w1"))
    onnx.save(model, "nan.onnx")
    assert "NaN, infinite or beyond 1e+15 in the original" in fails(folder, "nan.onnx", "o.onnx", "--data", "data.npy")


def test_external_data(folder: Path) -> None:
    words = ("big.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2")
    onnx.save(network(), "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    assert call(*words).exit_code == 0
    Path("o.onnx").unlink()
    Path("big.bin").rename("elsewhere.bin")
    assert "external data file 'big.bin' of tensor" in fails(folder, *words)
    model = onnx.load("big.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../big.bin"
    onnx.save(model, "big.onnx")
    assert "outside the model's folder" in fails(folder, *words)


def test_folder_that_is_not_writable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert "folder '.' is not writable" in fails(folder, "in.onnx", "o.onnx", "--data", "data.npy")


def test_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    found = fails(folder, "in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2", "--quiet")
    assert "o.onnx: cannot be written (No space left on device): free some space" in found


def test_failed_verification_is_exit_code_three(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.verify.fidelity.WORST_ERROR", 0.0)
    monkeypatch.setattr("onnx_lowrank.verify.fidelity.WORST_AGREEMENT", 1.1)
    found = fails(folder, "in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2", "--quiet", code=3)
    assert re.search(
        r"output 'scores': same top class [\d.]+ \(relative error .*\) on 12 held-out samples, at least", found
    )


def test_a_bug_is_one_line_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pipeline, "convert", broken)
    assert "unexpected ZeroDivisionError: oops: run again with --debug" in fails(
        folder, "in.onnx", "o.onnx", "--data", "data.npy"
    )
    assert "Traceback" in call("in.onnx", "o.onnx", "--data", "data.npy", "--debug").stderr


def test_without_onnxruntime_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime is not installed: pip install 'onnx-lowrank[cpu]'" in fails(folder, "inspect", "in.onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.onnx"], "Missing argument 'OUT.onnx'"),
        (["in.onnx", "o.onnx", "--frobnicate"], "No such option"),
        (["in.onnx", "o.onnx", "--method", "magic"], "Invalid value for '--method'"),
        (["in.onnx", "o.onnx", "--rank-multiple", "0"], "neither a number above 0 nor auto"),
        (["in.onnx", "o.onnx", "--input-shapes", "1,a"], "is not a shape like NAME:1,3,224,224"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "1"], "speedup: got 1, wanted a number above 1"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "fast"], "--speedup: got 'fast', wanted a number"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--report", "r.pdf"], "r.pdf: ends in '.pdf', .json, .md or"),
        (["in.onnx", "o.onnx", "--mean", "x"], "is not a list of numbers"),
        (["in.onnx", "o.onnx", "--data", "a", "--data", "b"], "need the form NAME=PATH"),
        (["in.onnx", "o.onnx", "--data", "x=a", "--data", "x=b"], "--data is given twice for the same input"),
        (["in.onnx", "o.onnx", "--data", "a", "--data-loader", "l.py:b"], "--data and --data-loader exclude each"),
        (
            ["inspect", "in.onnx", "--input-shapes", "1,3,9,9", "--input-shapes", "1,3,8,8"],
            "--input-shapes is given tw",
        ),
    ],
)
def test_usage_errors(folder: Path, words: list[str], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.stderr


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((f"{LONG}.onnx", "o.onnx"), 2, "cannot be the name of a file"),
        (("in.onnx", f"{LONG}.onnx"), 2, "cannot be the name of a file"),
        (("in.onnx", "o.onnx", "--report", f"{LONG}.json"), 2, "cannot be the name of a file"),
        (("in.onnx", "o.onnx", "--data-loader", f"{LONG}.py:f"), 1, "looking for it failed with OSError"),
        (("in.onnx", "o.onnx", "--data", LONG), 1, "File name too long"),
        (("in.onnx", "o.onnx", "--threads", "10000"), 2, "10000 is not in the range 1<=x<=256"),
    ],
)
def test_names_and_numbers_beyond_all_bounds(folder: Path, words: tuple[str, ...], code: int, message: str) -> None:
    result = call(*words)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert not (folder / "o.onnx").exists()
