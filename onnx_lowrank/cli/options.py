"""Options that commands share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from onnx_lowrank.calibrate import Preprocessing, preset
from onnx_lowrank.calibrate.data.preprocess import PRESETS, ChannelOrder, Resize
from onnx_lowrank.cli.help import Function, option, setting
from onnx_lowrank.cli.loader import load_batches, load_metric
from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.cli.param_types import (
    Constant,
    FilePath,
    InputShape,
    Methods,
    Numbers,
    ProviderName,
    RankMultiple,
    Regex,
    SamplesAxis,
)
from onnx_lowrank.errors import BudgetError, CalibrationError
from onnx_lowrank.graph import input_names
from onnx_lowrank.metrics import METRIC_NAMES
from onnx_lowrank.settings import COSTS, DROP_TYPES, FORMS, PROVIDERS, RUNTIMES, WEIGHTINGS

_NAMED_PATH = re.compile(r"(?P<name>[^=/\\]+)=(?P<path>.+)", re.DOTALL)


def method_options(function: Function) -> Function:
    """Add what a speedup counts, and how layers may be factorized."""
    return _with(
        function,
        setting("--cost", type=click.Choice(COSTS), metavar="KIND", help="Count macs, params or latency."),
        setting("--latency-table", type=FilePath(), metavar="FILE", advanced=True, show_default="cache",
                help="Latencies to read and add to."),
        setting("--runtime", type=click.Choice(RUNTIMES), metavar="NAME", advanced=True, values=", ".join(RUNTIMES),
                help="Measure milliseconds in this."),
        setting("--method", type=Methods(), metavar="NAME,...", advanced=True,
                values=f"auto; or with commas: {', '.join(FORMS)}", help="Methods allowed, see below."),
        setting("--weighting", type=click.Choice(WEIGHTINGS), metavar="KIND", advanced=True,
                values="auto; outputs: by what they feel, which takes PyTorch; none",
                help="Weigh errors: auto, outputs or none."),
    )  # fmt: skip


def layer_options(function: Function) -> Function:
    """Add which layers are factorized, and how they are sampled."""
    return _with(
        function,
        setting("--include", multiple=True, type=Regex(), metavar="REGEX", advanced=True, show_default="all",
                help="Layers to factorize; repeatable."),
        setting("--exclude", multiple=True, type=Regex(), metavar="REGEX", advanced=True,
                help="Layers to leave; repeatable."),
        option("--rank-multiple", type=RankMultiple(), default="auto", metavar="K", advanced=True,
               help="Make ranks multiples of K."),
        setting("--positions", type=click.IntRange(1), metavar="P", advanced=True, show_default="auto",
                help="Positions per image and layer."),
        setting("--memory", type=click.FloatRange(0), metavar="GB", advanced=True, show_default="half of free",
                help="Memory for cached tensors."),
    )  # fmt: skip


def check_cost(options: Mapping[str, Any]) -> None:
    """Raise for options that ``--cost`` excludes."""
    if options["latency_table"] and options["cost"] != "latency":
        raise click.UsageError("--latency-table goes with --cost latency")
    if options["cost"] == "latency" and not options["bench"]:
        raise click.UsageError("--cost latency is measured: leave out --no-bench")


def check_target(options: Mapping[str, Any], plan: Path | None) -> None:
    """Raise for more than one target."""
    given = {"--speedup": options["speedup"], "--max-drop": options["max_drop"], "--plan": plan}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise click.UsageError(f"{' and '.join(names)} exclude each other: each says how far to go")
    if options["preview"] and (options["cost"] == "latency" or options["max_drop"] is not None):
        other = "--max-drop" if options["cost"] != "latency" else "--cost latency"
        raise click.UsageError(f"--preview and {other} exclude each other: a preview measures as little as it can")
    if options["labels"] and options["metric"] is not None:
        raise click.UsageError("--labels and --metric exclude each other: --metric top1 counts by class folders")
    if options["labels"] and options["max_drop"] is None:
        raise click.UsageError("--labels goes with --max-drop: it says what is lost of")
    if options["drop_type"] == "relative" and (options["max_drop"] is None or options["metric"] is None):
        raise click.UsageError("--drop-type relative goes with --max-drop and --metric: it says how losses are counted")


@contextmanager
def checked_values() -> Iterator[None]:
    """Turn what the library says of a wrong value of an option into a usage error."""
    try:
        yield
    except (BudgetError, CalibrationError, ValueError) as error:
        raise click.UsageError(with_flags(str(error), flags(click.get_current_context()))) from error


def read_speedup(text: str) -> float:
    """Read a number; `Settings` checks that it is above 1."""
    try:
        return float(text)
    except ValueError:
        raise BudgetError(f"--speedup: got '{text}', wanted a number above 1: try --speedup 4") from None


def read_share(text: str | None, option: str, examples: str = "0.01 or 1%") -> float | None:
    """Read a share like ``0.01`` or ``1%``; `Settings` checks its range."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise BudgetError(f"{option}: got '{text}', wanted a share: try {option} {examples}") from None


def label_options(help: str) -> Callable[[Function], Function]:  # noqa: A002  (what the option is called too)
    """Return a decorator that adds labels, and what their classes are called.

    Args:
        help: what labels are for.
    """

    def add(function: Function) -> Function:
        return _with(function, option("--labels", is_flag=True, help=help), class_names_option)

    return add


class_names_option = option(
    "--class-names", type=FilePath(), metavar="FILE", advanced=True, show_default="folders",
    help="Order of classes, one a line.",
)  # fmt: skip


def check_class_names(options: Mapping[str, Any]) -> None:
    """Raise for names of classes without labels or a metric that counts them."""
    if options["class_names"] is not None and not options["labels"] and options.get("metric") is None:
        raise click.UsageError("--class-names goes with --labels: it says what they are called")


metric_option = option(
    "--metric", metavar="NAME", show_default="outputs",
    values=f"{', '.join(METRIC_NAMES)}; FILE:FUNCTION",
    help="Judge by this; may run code.",
)  # fmt: skip

drop_type_option = setting(
    "--drop-type", type=click.Choice(DROP_TYPES), metavar="TYPE", advanced=True,
    values="absolute; or relative, as a share of the original's score", help="How --max-drop counts a metric.",
)  # fmt: skip


def read_metric(text: str | None) -> Any:
    """Return the metric that ``--metric`` names, as `Settings` takes it. This may run the user's code."""
    return None if text is None else load_metric(text)


def metric_files(text: str | None) -> list[Path]:
    """Return the file that ``--metric`` names."""
    file = (text or "").rpartition(":")[0]
    return [Path(file)] if file and _exists(file) else []


def bound_options(function: Function) -> Function:
    """Add what a result has to be on held-out samples not to be refused."""
    return _with(
        function,
        option("--min-agreement", metavar="X", help="Refuse a lower agreement, like 95%."),
        option("--max-error", metavar="X", advanced=True, help="Refuse a larger error, like 0.3."),
    )  # fmt: skip


def read_bounds(options: dict[str, Any]) -> dict[str, Any]:
    """Take the bounds of a result out of ``options``, as fields of `Settings`, which checks their range."""
    return {
        "min_agreement": read_share(options.pop("min_agreement"), "--min-agreement", "0.95 or 95%"),
        "max_error": read_share(options.pop("max_error"), "--max-error", "0.3 or 30%"),
    }


def data_options(function: Function) -> Function:
    """Add where samples come from and how images are prepared; without data they are synthetic."""
    return _data_options(function, "synthetic")


def needed_data_options(function: Function) -> Function:
    """Add the same for a command that has no use for synthetic images."""
    return _data_options(function, "none")


def _data_options(function: Function, no_data: str) -> Function:
    return _with(
        function,
        option("--data", multiple=True, metavar="PATH", show_default=no_data,
               values="PATH; or NAME=PATH for each of several inputs",
               help="Folder, .zip, .tar, .npy, .npz."),
        option("--data-loader", metavar="FILE:FN", advanced=True,
               help="Run a Python function for batches."),
        option("--preset", "preset_name", type=click.Choice(PRESETS), default="zero-one", metavar="NAME",
               help="Scaling of pixels, see below."),
        option("--scale", type=float, metavar="X", advanced=True, show_default="preset",
               help="In (pixel * scale - mean) / std."),
        option("--mean", type=Numbers(), metavar="M,...", advanced=True, show_default="preset",
               help="One number, or one per channel."),
        option("--std", type=Numbers(), metavar="S,...", advanced=True, show_default="preset",
               help="One number, or one per channel."),
        option("--channel-order", type=click.Choice(get_args(ChannelOrder)), metavar="X", advanced=True,
               show_default="preset", help="Order of channels: rgb or bgr."),
        option("--resize", type=click.Choice(get_args(Resize)), metavar="HOW", advanced=True,
               show_default="preset", help="Fit images: crop, stretch or pad."),
        shape_options,
    )  # fmt: skip


input_shapes_option = option(
    "--input-shapes", type=InputShape(), multiple=True, metavar="SHAPE", advanced=True, show_default="data",
    values="NAME:1,3,224,224; 1x3x224x224 for the only input", help="Shape of inputs with open axes.",
)  # fmt: skip


def shape_options(function: Function) -> Function:
    """Add shapes that neither the model nor the data give, and constants."""
    return _with(
        function,
        input_shapes_option,
        option("--input", "constant_inputs", type=Constant(), multiple=True, metavar="NAME=VALUE", advanced=True,
               help="Feed the same: numbers, FILE.npy."),
        option("--samples-axis", type=SamplesAxis(), multiple=True, metavar="AXIS", advanced=True, show_default="0",
               values="NAME:1, the first being 0; 1 for the only input", help="Axis that counts samples."),
    )  # fmt: skip


def read_inputs(options: dict[str, Any]) -> dict[str, Any]:
    """Take shapes and constants by input name out of ``options``, as arguments of the library's functions."""
    return {
        "input_shapes": by_name(options.pop("input_shapes"), "--input-shapes"),
        "constant_inputs": by_name(options.pop("constant_inputs"), "--input"),
        "samples_axis": by_name(options.pop("samples_axis"), "--samples-axis"),
    }


def provider_options(function: Function) -> Function:
    """Add where things run."""
    return _with(
        function,
        setting("--provider", type=ProviderName(PROVIDERS), metavar="NAME", help="Run on cpu, cuda or tensorrt."),
        # Eager: it is read before --provider, which it gives more values.
        setting("--ep-library", type=FilePath(), metavar="FILE", advanced=True, is_eager=True,
                values="its providers: --provider openvino, or openvino:gpu",
                help="Plugin provider to run on."),
        setting("--threads", type=click.IntRange(1, 256), metavar="N", advanced=True, show_default="all",
                help="Threads to use."),
    )  # fmt: skip


def show_options(function: Function) -> Function:
    """Add how much is shown."""
    return _with(
        function,
        option("--quiet", is_flag=True, advanced=True, help="Print warnings and errors only."),
        debug_option,
    )


debug_option = option("--debug", is_flag=True, advanced=True, help="Print tracebacks.")


def run_options(samples: str) -> Callable[[Function], Function]:
    """Return a decorator that adds where and how things run, and how much is shown.

    Args:
        samples: how many are used by default.
    """

    def add(function: Function) -> Function:
        return _with(
            function,
            setting("--samples", type=click.IntRange(1), metavar="N", show_default=samples, help="Samples to use."),
            setting("--batch-size", type=click.IntRange(1), metavar="B", advanced=True, show_default="auto",
                    help="Samples per forward pass."),
            provider_options,
            setting("--seed", type=click.IntRange(0), metavar="S", advanced=True, help="Seed of all randomness."),
            show_options,
        )  # fmt: skip

    return add


def read_data(data: Sequence[str], loader: str | None, model: Path) -> Any:
    """Return the data that ``--data`` or ``--data-loader`` names: a path, paths by input name, batches, or None.

    Names of inputs may hold slashes, colons and equals signs: in ``NAME=PATH``, the name is the longest one of the
    model's inputs that fits.

    Args:
        data: values of ``--data``.
        loader: value of ``--data-loader``.
        model: whose inputs they are.
    """
    if loader is not None:
        if data:
            raise click.UsageError("--data and --data-loader exclude each other")
        return load_batches(loader)
    if not data:
        return None
    inputs = input_names(model) if any("=" in word for word in data) else ()
    named = [_named_path(word, inputs, alone=len(data) == 1) for word in data]
    if all(named):
        return by_name([pair for pair in named if pair is not None], "--data")
    odd = data[named.index(None)]
    if len(data) > 1 or (inputs and not _exists(odd) and data_files(data, None)):  # what follows some "=" is there
        names = f", which are {', '.join(sorted(input_names(model)))}" if model.is_file() else ""
        form = "several --data need" if len(data) > 1 else "it needs"
        raise click.UsageError(
            f"--data '{odd}': {form} the form NAME=PATH, one for each input of the model{names}: correct the name"
        )
    return data[0]


def _named_path(word: str, inputs: Sequence[str], *, alone: bool) -> tuple[str, str] | None:
    """Return name and path of ``NAME=PATH``; None for a path without a name, which one that exists is if alone."""
    if alone and _exists(word):
        return None
    if fitting := [name for name in inputs if word.startswith(f"{name}=") and len(word) > len(name) + 1]:
        name = max(fitting, key=len)
        return name, word[len(name) + 1 :]
    pair = None if _exists(word) else _NAMED_PATH.fullmatch(word)
    return None if pair is None else (pair["name"], pair["path"])


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # not a valid file name
        return False


def data_files(data: Sequence[str], loader: str | None) -> list[Path]:
    """Return the files that ``--data`` and ``--data-loader`` name."""
    parts = [(path, start) for path in data for start, sign in enumerate(path) if sign == "="]
    words = [*data, *(path[start + 1 :] for path, start in parts), (loader or "").rpartition(":")[0]]
    return [Path(word) for word in words if word and _exists(word)]


def by_name(pairs: Sequence[tuple[str, Any]], option: str) -> dict[str, Any]:
    """Return the values of a repeatable option by input; raise a usage error for an input given twice."""
    named = dict(pairs)
    if len(named) < len(pairs):
        raise click.UsageError(f"{option} is given twice for the same input")
    return named


def read_preprocessing(options: dict[str, Any]) -> Preprocessing:
    """Take the preprocessing out of ``options``: a preset, with the fields that were given."""
    base = preset(options.pop("preset_name"))
    fields = {name: options.pop(name) for name in ("mean", "std", "scale", "channel_order", "resize")}
    with checked_values():
        return replace(base, **{name: value for name, value in fields.items() if value is not None})


def _with(function: Function, *options: Callable[[Function], Function]) -> Function:
    """Return a command's function with options added, in the order of the help."""
    for decorate in reversed(options):
        function = decorate(function)
    return function
