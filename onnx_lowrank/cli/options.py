"""Options that commands share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from onnx_lowrank.calibrate import Preprocessing, preset
from onnx_lowrank.cli.loader import load_batches

Function = TypeVar("Function", bound=Callable[..., Any])

PRESETS = ("imagenet", "keras-caffe", "zero-one", "minus-one-one", "raw")
_NAMED_PATH = re.compile(r"(?P<name>[^=/\\]+)=(?P<path>.+)", re.DOTALL)


class FilePath(click.ParamType):
    """A path that a file can have; the package checks the rest, whose messages say what to do."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Text to path."""
        path = Path(value)
        try:
            path.exists()
        except (OSError, ValueError) as error:  # too long, for one
            self.fail(f"'{value}' cannot be the name of a file ({error})", param, ctx)
        return path


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Text to numbers."""
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
        """Text to name (empty if left out) and shape."""
        name, _, sizes = value.rpartition(":")
        try:
            shape = tuple(int(size) for size in re.split(r"[,x]", sizes.strip().strip("[]")))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            self.fail(f"'{value}' is not a shape like NAME:1,3,224,224, 1x3x224x224 or [1,3,224,224]", param, ctx)
        return name, shape


class Constant(click.ParamType):
    """``NAME=1`` or ``NAME=640,640``: an input that is always fed the same."""

    name = "constant"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[float, ...]]:
        """Text to name and numbers."""
        name, _, text = value.rpartition("=")
        try:
            numbers = tuple(_number(part.strip()) for part in text.split(","))
        except ValueError:
            numbers = ()
        if not name or not numbers:
            self.fail(f"'{value}' is not like NAME=1 or NAME=640,640", param, ctx)
        return name, numbers


def _number(text: str) -> float:
    """A number, whole where it is written so: large integers are exact."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def data_options(function: Function) -> Function:
    """Where samples come from and how images are prepared."""
    return _with(
        function,
        click.option("--data", multiple=True, metavar="PATH", help="images, .npy, .npz, .zip, .tar; NAME=PATH"),
        click.option("--data-loader", metavar="FILE:FUNC", help="your generator of batches; runs it"),
        click.option("--preset", "preset_name", type=click.Choice(PRESETS), default="zero-one", metavar="NAME",
                     help="of images: imagenet, zero-one, raw ..."),
        click.option("--mean", type=Numbers(), metavar="M"),
        click.option("--std", type=Numbers(), metavar="S"),
        click.option("--scale", type=float, metavar="X", help="(pixel * scale - mean) / std"),
        click.option("--channel-order", type=click.Choice(["rgb", "bgr"]), metavar="rgb|bgr"),
        click.option("--resize", type=click.Choice(["crop", "stretch", "pad"]), metavar="MODE",
                     help="of images: crop, stretch or pad"),
        shape_options,
    )  # fmt: skip


def shape_options(function: Function) -> Function:
    """What is fed where the model or the data do not say it."""
    return _with(
        function,
        click.option("--input-shapes", type=InputShape(), multiple=True, metavar="NAME:1,3,H,W"),
        click.option("--input", "constant_inputs", type=Constant(), multiple=True, metavar="NAME=V",
                     help="open axes; a constant input"),
    )  # fmt: skip


def read_inputs(options: dict[str, Any]) -> dict[str, Any]:
    """Shapes and constants by input name, as the package's functions take them; takes them out of ``options``."""
    return {
        "input_shapes": by_name(options.pop("input_shapes"), "--input-shapes"),
        "constant_inputs": by_name(options.pop("constant_inputs"), "--input"),
    }


def provider_options(function: Function) -> Function:
    """Where things run."""
    return _with(
        function,
        click.option("--provider", type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]), default="auto",
                     metavar="NAME"),
        click.option("--threads", type=click.IntRange(1, 256), metavar="N",
                     help="auto, cpu, cuda or tensorrt; threads"),
    )  # fmt: skip


def run_options(function: Function) -> Function:
    """Where and how things run, and what is shown."""
    return _with(
        function,
        click.option("--samples", type=click.IntRange(1), metavar="N"),
        click.option("--batch-size", type=click.IntRange(1), metavar="B"),
        click.option("--seed", type=click.IntRange(0), default=0, metavar="S", help="samples used, per pass; seed"),
        provider_options,
        click.option("--quiet", is_flag=True),
        click.option("--debug", is_flag=True, help="print less; print tracebacks"),
    )


def read_data(data: Sequence[str], loader: str | None) -> Any:
    """What ``--data`` and ``--data-loader`` come to: a path, paths by input name, batches, or None."""
    if loader is not None:
        if data:
            raise click.UsageError("--data and --data-loader exclude each other")
        return load_batches(loader)
    if not data:
        return None
    named = [_NAMED_PATH.fullmatch(each) if not _exists(each) else None for each in data]
    if all(named):
        return by_name([(each["name"], each["path"]) for each in named if each is not None], "--data")
    if len(data) > 1:
        raise click.UsageError("several --data need the form NAME=PATH, one for each input of the model")
    return data[0]


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def data_files(data: Sequence[str], loader: str | None) -> list[Path]:
    """The files that ``--data`` and ``--data-loader`` name."""
    words = [*data, *(each.partition("=")[2] for each in data), (loader or "").rpartition(":")[0]]
    return [Path(each) for each in words if each and _exists(each)]


def by_name(pairs: Sequence[tuple[str, Any]], option: str) -> dict[str, Any]:
    """What a repeatable option gives for each input; one input given twice is a usage error."""
    named = dict(pairs)
    if len(named) < len(pairs):
        raise click.UsageError(f"{option} is given twice for the same input")
    return named


def read_preprocessing(options: dict[str, Any]) -> Preprocessing:
    """The preset with what else was given; takes its options out of ``options``."""
    base = preset(options.pop("preset_name"))
    given = {name: options.pop(name) for name in ("mean", "std", "scale", "channel_order", "resize")}
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _with(function: Function, *options: Callable[[Function], Function]) -> Function:
    """A command's function with options, in the order of its help."""
    for option in reversed(options):
        function = option(function)
    return function
