"""Hooks for mkdocs: equations become MathML, which browsers render without scripts; the help of commands goes in."""

from __future__ import annotations

import re
from typing import Any

import click
from latex2mathml.converter import convert

from onnx_lowrank.cli import program
from onnx_lowrank.cli.help import ALL_OPTIONS

_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"\$([^$\n]+?)\$")
_HELP = re.compile(r"^::: help ?([\w-]*)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``$$...$$`` and ``$...$`` outside of code, and ``::: help NAME`` by ``NAME --help-all``'s output."""
    markdown = _HELP.sub(lambda match: f"```text\n{_help(match[1])}\n```", markdown)
    parts = _CODE.split(markdown)
    parts[::2] = [_equations(part) for part in parts[::2]]
    return "".join(parts)


def _help(name: str) -> str:
    outer = click.Context(program, info_name="onnx-lowrank")
    command = program.get_command(outer, name)
    assert command is not None, name
    context = command.context_class(command, parent=outer, info_name=name, max_content_width=100)
    context.meta[ALL_OPTIONS] = True
    return command.get_help(context)


def _equations(text: str) -> str:
    text = _BLOCK.sub(lambda match: convert(match[1].strip(), display="block"), text)
    return _INLINE.sub(lambda match: f"<span>{convert(match[1].strip())}</span>", text)
