"""What the shell offers after TAB."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.shell_completion import BashComplete

from onnx_lowrank.cli import program

Offered = Callable[..., list[str]]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Offered:
    """What click answers to bash for a line whose last word is not complete."""

    def answer(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join(["onnx-lowrank", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return BashComplete(program, {}, "onnx-lowrank", "_ONNX_LOWRANK_COMPLETE").complete().split()

    return answer


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ins"], ["plain,inspect", "file,ins"]),
        (["model.onnx", "ins"], ["file,ins"]),
        (["model.onnx", "out.onnx", "--sp"], ["plain,--speedup"]),
        (["model.onnx", "--method", "spatial"], ["plain,spatial", "plain,spatial-channel"]),
        (["model.onnx", "--method", "width,sp"], ["plain,width,spatial", "plain,width,spatial-channel"]),
        (["inspect", "ins"], ["file,ins"]),
        (["model.onnx", "--seed", "1", "--help"], ["plain,--help-all", "plain,--help"]),
        (["bench", "a.onnx", "--th"], ["plain,--threads"]),
    ],
)
def test_files_commands_and_options(offered: Offered, words: list[str], wanted: list[str]) -> None:
    assert offered(*words) == wanted


def test_the_first_word_may_be_any_command(offered: Offered) -> None:
    assert {"plain,compare", "plain,bench", "plain,finetune"} <= set(offered(""))


def test_the_program_answers_the_shell() -> None:
    line = {"COMP_WORDS": "onnx-lowrank model.onnx out.onnx --sp", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "from onnx_lowrank.cli import main; main()"],
        env={**os.environ, **line, "_ONNX_LOWRANK_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("plain,--speedup\n", "")
