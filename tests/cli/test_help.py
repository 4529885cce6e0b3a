"""What ``--help`` and ``--help-all`` show."""

from __future__ import annotations

import re

import click
import pytest

from onnx_lowrank.cli import program
from tests.command_line import call, works


@pytest.mark.parametrize("words", [[], ["--help"], ["inspect", "--help"], ["compare", "--help"], ["sweep", "--help"]])
def test_help_fits_one_screen_and_shows_an_example(words: list[str]) -> None:
    result = call(*words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any("Example: onnx-lowrank" in line for line in lines)


@pytest.mark.parametrize("name", ["", *program.commands])
def test_help_all_shows_every_option(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    lines = works(*filter(None, [name]), "--help-all").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert {line.split()[0] for line in lines if line.startswith("  --")} == {
        "--help",
        *(each.opts[0] for each in options),
    }
    assert all(option.help and re.fullmatch(r"[A-Z].*\.", option.help) for option in options)


def test_help_shows_the_defaults_of_the_settings() -> None:
    text = " ".join(works("--help-all").stdout.split())
    for shown in (
        "--speedup [X] How many times cheaper. [default: (up to 4)]",
        "[default: macs]",
        "How long factors are refined. [default: fast]",
    ):
        assert shown in text
    assert "--no-bench Do not measure latency. --dry-run" in text


def test_version() -> None:
    assert call("--version").stdout.startswith("onnx-lowrank, version 0.")
