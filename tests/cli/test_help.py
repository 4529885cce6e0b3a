"""What ``--help`` and ``--help-all`` show."""

from __future__ import annotations

import re

import click
import pytest

from onnx_lowrank.cli import program
from onnx_lowrank.settings import FORMS
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
    end = lines.index("", lines.index("Options:"))  # values of options may follow
    assert {line.split()[0] for line in lines[:end] if line.startswith("  --")} == {
        "--help",
        *(each.opts[0] for each in options),
    }
    assert all(option.help and re.fullmatch(r"[A-Z].*\.", option.help) for option in options)


def rows(text: str) -> dict[str, str]:
    """The lines of the options by flag."""
    section = text.partition("Options:\n")[2].partition("\n\n")[0]
    return {line.split()[0]: line for line in section.splitlines()}


@pytest.mark.parametrize("length", ["--help", "--help-all"])
@pytest.mark.parametrize("name", ["", *program.commands])
def test_every_option_is_one_line_that_ends_with_its_default(name: str, length: str) -> None:
    text = works(*filter(None, [name]), length).stdout
    lines = text.partition("Options:\n")[2].partition("\n\n")[0].splitlines()
    assert all(re.match(r"  --[a-z]", line) for line in lines)
    actions = {"--version", "--help", "--help-all"}
    assert [
        line for line in lines if line.split()[0] not in actions and not re.search(r"  \[default: .+\]$", line)
    ] == []
    assert "Sentinel" not in text


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("", {"--speedup": "up to 4", "--cost": "macs", "--refine": "fast", "--max-drop": "none", "--labels": "off"}),
        ("", {"--no-bench": "off", "--data": "synthetic", "--samples": "up to 256", "--include": "all", "--seed": "0"}),
        ("compare", {"--samples": "all", "--data": "none", "--json": "off", "--class-names": "folders"}),
        ("bench", {"--rounds": "5", "--repeats": "10", "--batch-size": "1"}),
        ("sweep", {"--speedups": "2,3,4,5"}),
        ("finetune", {"--temperature": "4", "--held-out": "0.1", "--epochs": "10", "--batch-size": "128"}),
    ],
)
def test_help_shows_the_defaults_of_the_settings(name: str, defaults: dict[str, str]) -> None:
    found = rows(works(*filter(None, [name]), "--help-all").stdout)
    for flag, default in defaults.items():
        assert found[flag].endswith(f"  [default: {default}]")


@pytest.mark.parametrize("words", [["--help"], ["--help-all"], ["compare", "--help"], ["finetune", "--help"]])
def test_help_says_what_presets_stand_for(words: list[str]) -> None:
    shown = works(*words).stdout.partition("Presets: (pixel * scale - mean) / std, pixels from 0 to 255:\n")[2]
    assert [line.split(maxsplit=1) for line in shown.splitlines()[:5]] == [
        ["imagenet", "scale 1/255, mean 0.485,0.456,0.406, std 0.229,0.224,0.225"],
        ["keras-caffe", "scale 1, mean 103.939,116.779,123.68, std 1, bgr"],
        ["zero-one", "scale 1/255, mean 0, std 1"],
        ["minus-one-one", "scale 1/127.5, mean 1, std 1"],
        ["raw", "scale 1, mean 0, std 1"],
    ]
    assert "Presets" not in works("bench", "--help-all").stdout


def test_help_all_has_the_values_that_need_more_room() -> None:
    text = works("--help-all").stdout.partition("Values:\n")[2]
    values = " ".join(text.partition("\n\n")[0].split())  # some take two lines
    assert f" --method auto; or with commas: {', '.join(FORMS)} --" in values
    assert " --data PATH; or NAME=PATH for each of several inputs --" in values


def test_version() -> None:
    assert call("--version").stdout.startswith("onnx-lowrank, version 0.")
