"""Kinds of values that options take: what they accept, and what is said of anything else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnx_lowrank.errors import check_name, did_you_mean
from onnx_lowrank.runtime.constants import ARRAY_FILES
from onnx_lowrank.settings import FORMS


class FilePath(click.ParamType):
    """A valid path; the library checks the rest, and its messages say what to do."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Convert text to a path."""
        path = Path(value)
        try:
            check_name(path)
            path.exists()
        except (OSError, ValueError) as error:  # too long, for example
            self.fail(f"'{value}' cannot be the name of a file ({error})", param, ctx)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete files; for the first word, the other commands too."""
        outer = ctx.parent.command if ctx.parent is not None and not ctx.info_name and param.name == "model" else None
        others = outer.commands if isinstance(outer, click.Group) else {}
        names = [CompletionItem(name) for name in others if name.startswith(incomplete)]
        return [*names, CompletionItem(incomplete, type="file")]


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Convert text to numbers."""
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"'{value}' is not a list of numbers like 0.485,0.456,0.406", param, ctx)


class InputShape(click.ParamType):
    """``NAME:1,3,224,224``, also ``1x3x224x224`` and ``[1,3,224,224]``; the name may be left out."""

    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Convert text to name (empty if left out) and shape."""
        name, _, sizes = value.rpartition(":")
        try:
            shape = tuple(int(size) for size in re.split(r"[,x]", sizes.strip().strip("[]")))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            self.fail(f"'{value}' is not a shape like NAME:1,3,224,224, 1x3x224x224 or [1,3,224,224]", param, ctx)
        return name, shape


class Constant(click.ParamType):
    """``NAME=1``, ``NAME=640,640`` or ``NAME=FILE.npy``: an input with a constant value."""

    name = "constant"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[float, ...] | Path]:
        """Convert text to name and numbers, or the path of an array."""
        name, _, text = value.rpartition("=")
        if name and text.lower().endswith(ARRAY_FILES):
            divided = [(value[:at], value[at + 1 :]) for at, sign in enumerate(value) if sign == "=" and at]
            name, text = next((pair for pair in reversed(divided) if Path(pair[1]).is_file()), (name, text))
            return name, Path(text)
        try:
            numbers = tuple(_number(part.strip()) for part in text.split(","))
        except ValueError:
            numbers = ()
        if not name or not numbers:
            self.fail(f"'{value}' is not like NAME=1, NAME=640,640 or NAME=FILE.npy", param, ctx)
        return name, numbers


class SamplesAxis(click.ParamType):
    """``NAME:1``, or ``1`` where there is one input: the axis that counts samples."""

    name = "axis"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Convert text to name (empty if left out) and axis."""
        name, _, axis = value.rpartition(":")
        if not re.fullmatch(r"-?\d{1,3}", axis):
            self.fail(f"'{value}' is not an axis like NAME:1, the first being 0", param, ctx)
        return name, int(axis)


class Regex(click.ParamType):
    """A regular expression."""

    name = "regex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that the text compiles."""
        try:
            re.compile(value)
        except re.error as error:
            self.fail(f"'{value}' is not a regular expression ({error})", param, ctx)
        return str(value)


class RankMultiple(click.ParamType):
    """A number, or ``auto``."""

    name = "multiple"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Convert text to a number; None for ``auto``."""
        if value == "auto":
            return None
        if not (value.isascii() and value.isdigit()) or int(value) < 1:
            self.fail(f"'{value}' is neither a number above 0 nor auto", param, ctx)
        return int(value)


class Names(click.ParamType):
    """Names with commas between them.

    Args:
        name: what each of them is.
        known: those that there are.
        alone: one more, which stands for several and goes with no other; None for none.
    """

    def __init__(self, name: str, known: Sequence[str], alone: str | None = None) -> None:
        self.name, self._known, self._alone = name, known, alone

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Convert text to names."""
        names = value if isinstance(value, tuple) else tuple(value.split(","))
        if self._alone is not None and names == (self._alone,):
            return names
        for name in names:
            if name not in self._known:
                others = "" if self._alone is None else f", or {self._alone} alone"
                question = did_you_mean(name, self._known)
                self.fail(f"'{name}' is not one of {', '.join(self._known)}{others}{question}", param, ctx)
        return names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the last name."""
        *given, last = incomplete.split(",")
        known = self._known if given or self._alone is None else (self._alone, *self._known)
        return [
            CompletionItem(",".join([*given, name])) for name in known if name.startswith(last) and name not in given
        ]


class Methods(Names):
    """``auto``, or names of what is allowed with commas between them."""

    def __init__(self) -> None:
        super().__init__("method", FORMS, "auto")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to ``auto``, one name, or several."""
        names = super().convert(value, param, ctx)
        return names[0] if len(names) == 1 else names


class ProviderName(click.Choice[str]):
    """An execution provider of onnxruntime; with ``--ep-library`` any name, which the library may have."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name where it is one of onnxruntime's own."""
        if ctx is not None and ctx.params.get("ep_library") is not None:
            return str(value)
        return str(super().convert(value, param, ctx))


def _number(text: str) -> float:
    """Return a number, an int where it is written as one: large integers stay exact."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
