"""What the shell offers after TAB."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def offered(*words: str) -> list[str]:
    """What click answers to bash for a line whose last word is not complete."""
    line = {"COMP_WORDS": " ".join(["onnx-lowrank", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-c", "from onnx_lowrank.cli import main; main()"],
        env={**os.environ, **line, "_ONNX_LOWRANK_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ins"], ["plain,inspect", "file,ins"]),
        (["model.onnx", "ins"], ["file,ins"]),
        (["model.onnx", "out.onnx", "--sp"], ["plain,--speedup"]),
        (["model.onnx", "--method", "spatial"], ["plain,spatial", "plain,spatial-channel"]),
        (["inspect", "ins"], ["file,ins"]),
        (["bench", "a.onnx", "--th"], ["plain,--threads"]),
    ],
)
def test_files_commands_and_options(words: list[str], wanted: list[str]) -> None:
    assert offered(*words) == wanted


def test_the_first_word_may_be_any_command() -> None:
    assert {"plain,compare", "plain,bench", "plain,finetune"} <= set(offered(""))
