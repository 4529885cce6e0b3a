"""Flags in messages: the library names settings as Python does, the command line shows its flags."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

import onnx_lowrank
from onnx_lowrank.cli import program
from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.settings import Settings

PACKAGE = Path(onnx_lowrank.__file__).parent
LIBRARY = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "cli" not in path.parents]
# A property of CSS; options of nvidia-smi, of MNN's converter, of runtimes' tools.
OF_OTHERS = {"report/svg.py", "runtime/device.py", "runtime/backends/mnn.py", "commands/time_networks.py"}
CONTEXT = click.Context(program)
WORDS = flags(CONTEXT)


def texts(path: Path) -> Iterator[str]:
    """The strings of a module, docstrings aside; of one with values in it, the parts around them, joined."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone | parts:
            yield node.value


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("lower `speedup`", "lower --speedup"),
        ("use `provider='cpu'` instead", "use --provider cpu instead"),
        ("`input_shapes`: no input 'y'", "--input-shapes: no input 'y'"),
        ("pass `input_shapes={'x': (1,3,?,?)}`", "pass --input-shapes x:1,3,?,?"),
        ("a constant: `constant_inputs={'NAME': VALUE}`", "a constant: --input NAME=VALUE"),
        ("with `constant_inputs={'a/b:0': 'FILE', 'c=d': 'FILE'}`", "with --input a/b:0=FILE --input c=d=FILE"),
        ("try `speedups=[2, 3, 4, 5]`", "try --speedups 2,3,4,5"),
        ("see `inspect`, check `include` and `exclude`", "see 'onnx-lowrank inspect', check --include and --exclude"),
        ("write one with `RankPlan.to_json`", "write one with --save-plan"),
        ("leave `bench` and `asymmetric=True` alone", "leave `bench` and `asymmetric=True` alone"),
        ("layer `a b`, x`y", "layer `a b`, x`y"),
    ],
)
def test_names_become_flags(message: str, shown: str) -> None:
    assert with_flags(message, WORDS) == shown


def test_a_name_is_the_same_flag_in_all_commands() -> None:
    commands = [command for name in ("", *program.commands) if (command := program.get_command(CONTEXT, name))]
    assert len(commands) == 9
    options = [each for command in commands for each in command.params if isinstance(each, click.Option)]
    pairs = {(each.name, each.opts[0]) for each in options}
    assert len(pairs) == len(dict(pairs))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_library_names_no_flags(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() not in OF_OTHERS:
        assert [text for text in texts(path) if re.search(r"(?<![\w-])--[a-z]", text)] == []


def test_pages_name_no_flags() -> None:
    pages = [*PACKAGE.rglob("*.j2")]
    assert pages
    assert not [path for path in pages if re.search(r">--[a-z]", path.read_text(encoding="utf-8"))]


def test_the_command_line_knows_all_names_in_messages() -> None:
    public = [getattr(onnx_lowrank, name) for name in onnx_lowrank.__all__]
    known = {field.name for field in fields(Settings)}
    known |= {name for each in public if inspect.isfunction(each) for name in inspect.signature(each).parameters}
    named = {name for path in LIBRARY for text in texts(path) for name in re.findall(r"`([a-z_]+)[`=]", text)}
    assert {"speedup", "input_shapes", "data", "exclude"} <= named
    assert named & known <= WORDS.keys()
