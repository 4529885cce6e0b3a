"""Wrong values of options: exit code 2 everywhere, whatever finds them, and before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import misused

COMMANDS = {
    "convert": ("none.onnx", "o.onnx"),
    "inspect": ("inspect", "none.onnx"),
    "compare": ("compare", "none.onnx", "none.onnx"),
    "bench": ("bench", "none.onnx"),
    "sweep": ("sweep", "none.onnx", "out"),
    "finetune": ("finetune", "none.onnx", "none.onnx", "o.onnx"),
    "export-torch": ("export-torch", "none.onnx", "o.pt2"),
}
ON_DATA = ("convert", "inspect", "compare", "sweep", "finetune")
NO_NUMBERS = "finite numbers are wanted, and no 0 in std: correct --scale, --mean or --std"


@pytest.mark.parametrize(
    ("commands", "words", "message"),
    [
        (("convert",), ["--speedup", "0.5"], "speedup: got 0.5, wanted a number above 1: try --speedup 4"),
        (("convert",), ["--speedup", "much"], "--speedup: got 'much', wanted a number above 1: try --speedup 4"),
        (("sweep",), ["--speedups", "2,inf"], "speedup: got inf, wanted a number above 1: try --speedup 4"),
        (("convert", "sweep"), ["--min-agreement", "2"], "--min-agreement: got 2, wanted a share from 0 to 1"),
        (("convert", "sweep"), ["--min-agreement", "x"], "--min-agreement: got 'x', wanted a share: try"),
        (("convert", "sweep"), ["--max-error", "0"], "--max-error: got 0, wanted a number above 0: try"),
        (("convert", "sweep"), ["--max-error", "x%"], "--max-error: got 'x%', wanted a share: try --max"),
        (("convert", "sweep"), ["--include", "a("], "'a(' is not a regular expression (missing )"),
        (("convert", "sweep"), ["--exclude", "*"], "'*' is not a regular expression (nothing to repeat at position 0)"),
        (("convert", "sweep"), ["--rank-multiple", "\u00b2"], "'\u00b2' is neither a number above 0 nor auto"),
        (("convert", "sweep"), ["--memory", "nan"], "memory must be a number of gigabytes, got nan"),
        (("convert", "sweep"), ["--memory", "-1"], "-1.0 is not in the range x>=0"),
        (("convert",), ["--report", "r.pdf"], "--report r.pdf: ends in '.pdf', .json, .md or .html is wanted: rename"),
        (("finetune",), ["--report", "r.md"], "--report r.md: .json is wanted: rename it"),
        (("finetune",), ["--temperature", "inf"], "temperature must be a number from 0 on, got inf"),
        (("finetune",), ["--match", "nan"], "match must be a number from 0 on, got nan"),
        (("finetune",), ["--samples-axis", "1"], "--samples-axis: fine-tuning takes samples on the first axis"),
        (ON_DATA, ["--std", "0"], NO_NUMBERS),
        (ON_DATA, ["--mean", "nan"], NO_NUMBERS),
        (ON_DATA, ["--scale", "inf"], NO_NUMBERS),
        (ON_DATA, ["--preset", "imagnet"], "'imagnet' is not one of"),
        (ON_DATA, ["--preset", "imagnet"], "'raw': did you mean 'imagenet'?"),
        (("convert", "sweep"), ["--cost", "mac"], "'params': did you mean 'macs'?"),
        (("convert", "sweep"), ["--refine", "Fulll"], "'full': did you mean 'full'?"),
        (("convert", "sweep"), ["--method", "channel,widht"], "width, or auto alone: did you mean 'width'?"),
        (("convert", "sweep"), ["--method", "low"], "width, or auto alone"),
        (("convert", "compare", "sweep"), ["--metric", "cosin"], "as file.py:function: did you mean 'cosine'?"),
        (("finetune",), ["--learn", "label"], "'both': did you mean 'labels'?"),
        (("bench", *ON_DATA), ["--provider", "cudaa"], ": did you mean 'cuda'?"),
        (("convert",), ["--speedpu", "2"], "No such option '--speedpu': did you mean '--speedup'?"),
        (("sweep",), ["--speedup", "2"], "No such option '--speedup': did you mean '--speedups'?"),
        (("bench", *ON_DATA), ["--Threads", "2"], "No such option '--Threads': did you mean '--threads'?"),
        (("bench", *ON_DATA), ["--xyz"], "No such option '--xyz'"),
        (ON_DATA, ["--data-loader", "load.py"], "--data-loader load.py: no function named: write it as file"),
        (ON_DATA, ["--samples", "0"], "0 is not in the range x>=1"),
        (("bench", "export-torch", *ON_DATA), ["--input-shapes", "1,0"], "'1,0' is not a shape like NAME:1,3,224,224"),
    ],
)  # fmt: skip
def test_wrong_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: tuple[str, ...], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert message in misused(tmp_path, *COMMANDS[command], *words), command


@pytest.mark.parametrize(
    ("word", "meant"),
    [("inspct", "inspect"), ("Compare", "compare"), ("sweeep", "sweep"), ("export_torch", "export-torch")],
)
def test_a_word_that_is_nearly_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"no command '{word}', nor a file of that name: did you mean '{meant}'?"
    assert misused(tmp_path, word, "model.onnx") == message
    assert misused(tmp_path, word) == message


@pytest.mark.parametrize("word", ["inspct.onnx", "./inspct", "models/inspct"])
def test_names_of_files_are_no_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert misused(tmp_path, word) == "Missing argument 'OUT.onnx'."


def test_a_file_that_is_called_nearly_like_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("inspct").touch()
    assert misused(tmp_path, "inspct") == "Missing argument 'OUT.onnx'."
