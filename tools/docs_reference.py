"""Write the help of all commands and the reference of the Python API into the documentation, as plain Markdown.

``python tools/docs_reference.py`` fills what stands between ``<!-- help NAME -->`` or ``<!-- api NAME -->`` and
``<!-- end -->`` in tools/docs/. A test fails where a page is out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.cli import program
from onnx_lowrank.cli.help import ALL_OPTIONS

DOCS = Path(__file__).parent / "docs"
PAGES = ("commands.md", "python.md")
_MARKED = re.compile(r"(<!-- (help|api) ?([\w.-]*) -->\n).*?(<!-- end -->)", re.DOTALL)
_SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "References")
_ENTRY = re.compile(r"(\*{0,2}\w[\w, .*]*): (.*)", re.DOTALL)
_LINE_LENGTH = 100


def main() -> None:
    """Bring all pages up to date."""
    for name in PAGES:
        path = DOCS / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """Return a page with what is generated up to date."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{_generated(found[2], found[3])}\n{found[4]}", page)


def _generated(kind: str, name: str) -> str:
    return f"```text\n{help_of(name)}\n```\n" if kind == "help" else reference(name)


def help_of(name: str) -> str:
    """Return what ``NAME --help-all`` shows."""
    outer = click.Context(program, info_name="onnx-lowrank")
    command = program.get_command(outer, name)
    assert command is not None, name
    context = command.context_class(command, parent=outer, info_name=name, max_content_width=_LINE_LENGTH)
    context.meta[ALL_OPTIONS] = True
    return command.get_help(context)


def reference(path: str) -> str:
    """Return the reference of a module, class or function: signature, docstring, and methods of a class.

    Args:
        path: dotted, with the module that it is defined in.
    """
    found = _found(path)
    if inspect.ismodule(found):
        return "\n".join(_prose(inspect.getdoc(found) or ""))
    lines = [
        f"### {found.__name__}",
        "",
        "```python",
        _signature(found.__name__, found),
        "```",
        "",
        *_prose(inspect.getdoc(found) or ""),
    ]
    for name, method in _methods(found) if inspect.isclass(found) else ():
        lines += ["", f"**`{found.__name__}.{name}`**", ""]
        if not isinstance(method, property):
            lines += ["```python", _signature(name, method), "```", ""]
        lines += _prose(inspect.getdoc(method) or "")
    return "\n".join(lines) + "\n"


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    parent = import_module(module)
    return getattr(parent, name) if hasattr(parent, name) else import_module(path)


def _methods(owner: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(owner).items():
        plain = member.__func__ if isinstance(member, staticmethod) else member
        if not name.startswith("_") and (isinstance(plain, property) or inspect.isfunction(plain)):
            yield name, plain


def _signature(name: str, found: Any) -> str:
    """Return a signature with annotations as they are written, over several lines where it is long."""
    signature = inspect.signature(found)
    parts: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts and not any(p.startswith("*") for p in parts):
            parts.append("*")
        stars = "*" * (parameter.kind is parameter.VAR_POSITIONAL) + "**" * (parameter.kind is parameter.VAR_KEYWORD)
        note = "" if parameter.annotation is parameter.empty else f": {_type_text(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {_default_text(parameter.default)}"
        parts.append(f"{stars}{parameter.name}{note}{default}")
    returns = "" if inspect.isclass(found) else f" -> {_type_text(signature.return_annotation)}"
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= _LINE_LENGTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def _type_text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default_text(default: Any) -> str:
    return "{}" if "factory" in repr(default) else repr(default)


def _prose(text: str) -> Iterator[str]:
    """Turn a docstring of Google's style into Markdown, its sections into lists."""
    for block in re.split(r"\n(?=(?:" + "|".join(_SECTIONS) + r"):\n)", text):
        title, _, body = block.partition(":\n")
        if title not in _SECTIONS:
            yield from re.sub(r"(?m)^::$|::$", lambda sign: "" if sign.start() == 0 else ":", block).splitlines()
        else:
            yield f"\n**{title}**\n"
            yield from _items(inspect.cleandoc(body))


def _items(body: str) -> Iterator[str]:
    """Yield the entries of a section: ``name: text``, or text alone, each with its further lines."""
    for entry in re.split(r"\n(?=\S)", body):
        first, *rest = entry.strip().splitlines()
        named = _ENTRY.fullmatch(first)
        text = f"`{named[1]}`: {named[2]}" if named else first
        yield "- " + "\n  ".join([text, *(line.strip() for line in rest)])


if __name__ == "__main__":
    main()
