"""Functions of the user's: ``--data-loader file.py:function`` and ``--metric file.py:function``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.errors import CalibrationError, check_name, did_you_mean
from onnx_lowrank.metrics import METRIC_NAMES, as_metric
from onnx_lowrank.metrics.user import UserMetric


def load_batches(reference: str) -> Iterator[Any]:
    """Import a file and call a function of it. This runs the user's code.

    Args:
        reference: ``file.py:function``; the function takes no arguments and yields ``{input name: array}``.

    Returns:
        What the function yields; an exception from it becomes a `CalibrationError`.

    Raises:
        click.UsageError: no function is named.
        CalibrationError: no such file or function, importing or calling it fails, or it yields nothing.
    """
    where = f"--data-loader {reference}"
    batches = _guarded(_load_function(reference, where), where, "calling it")
    if isinstance(batches, Mapping):
        return iter([batches])  # all samples at once
    if isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        raise _error(where, f"returned {type(batches).__name__}", "yield dicts {input name: array} from it")
    return _iterate(batches, where)


def load_metric(text: str) -> str | UserMetric:
    """Return a metric by name, with its options behind a colon, or import a file with a function. This runs its code.

    Args:
        text: as in ``top1``, ``map:score=0.5`` or ``file.py:function``; the function is one of a predictor and samples.

    Raises:
        click.UsageError: no function is named, or there is neither a metric nor a file of this name.
        CalibrationError: a metric does not take its options, there is no such file or function, or importing it fails.
        MissingDependencyError: a package that a metric needs is not installed.
    """
    file = text.rpartition(":")[0]
    if text.partition(":")[0] in METRIC_NAMES and not Path(file).is_file():
        as_metric(text)  # raises for options that it does not take
        return text
    where = f"--metric {text}"
    if ":" not in text and not text.endswith(".py"):
        raise click.UsageError(
            f"{where}: no metric has this name: take one of {', '.join(METRIC_NAMES)}, or write a function of your own "
            f"as file.py:function{did_you_mean(text, METRIC_NAMES)}"
        )
    return UserMetric(_load_function(text, where), text)


def _load_function(reference: str, where: str) -> Callable[..., Any]:
    """Import a file and return a function of it; ``where`` is what error messages begin with."""
    file, colon, name = reference.rpartition(":")
    path = Path(file)
    if not (colon and name):
        raise click.UsageError(f"{where}: no function named: write it as file.py:function")
    _guarded(lambda: check_name(path), where, "looking for it")
    if not path.is_file():
        raise _error(where, f"no such file '{path}'", "check the path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise _error(where, f"'{path}' is no Python file", "give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # As for a script that is run: modules beside it can be imported, now and while the batches come.
    sys.path.insert(0, str(path.resolve().parent))
    _guarded(partial(spec.loader.exec_module, module), where, "importing it")
    function = getattr(module, name, None)
    if not callable(function):
        raise _error(where, f"'{path}' has no function '{name}'", "check the name")
    return function  # type: ignore[no-any-return]


def _iterate(batches: Iterable[Any], where: str) -> Iterator[Any]:
    iterator = iter(batches)
    end = object()
    while (batch := _guarded(lambda: next(iterator, end), where, "reading a batch from it")) is not end:
        yield batch


def _guarded(call: Callable[[], Any], where: str, doing: str) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        found = f"{doing} failed with {type(error).__name__}: {error}"
        raise _error(where, found, "correct it; --debug shows where") from error


def _error(where: str, found: str, remedy: str) -> CalibrationError:
    return CalibrationError(f"{where}: {found}: {remedy}")
