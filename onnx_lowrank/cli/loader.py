"""Sample inputs from a function of the user's: ``--data-loader file.py:function``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from onnx_lowrank.errors import CalibrationError


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
    file, colon, name = reference.rpartition(":")
    path = Path(file)
    if not (colon and name):
        raise click.UsageError(f"--data-loader {reference}: no function named: write it as file.py:function")
    if not _guarded(path.is_file, reference, "looking for it"):
        raise _error(reference, f"no such file '{path}'", "check the path")
    function = _function(path, name, reference)
    batches = _guarded(function, reference, "calling it")
    if isinstance(batches, Mapping):
        return iter([batches])  # all samples at once
    if isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        raise _error(reference, f"returned {type(batches).__name__}", "yield dicts {input name: array} from it")
    return _iterate(batches, reference)


def _function(path: Path, name: str, reference: str) -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise _error(reference, f"'{path}' is no Python file", "give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # As for a script that is run: modules beside it can be imported, now and while the batches come.
    sys.path.insert(0, str(path.resolve().parent))
    _guarded(lambda: spec.loader.exec_module(module), reference, "importing it")  # type: ignore[union-attr]
    function = getattr(module, name, None)
    if not callable(function):
        raise _error(reference, f"'{path}' has no function '{name}'", "check the name")
    return function  # type: ignore[no-any-return]


def _iterate(batches: Iterable[Any], reference: str) -> Iterator[Any]:
    iterator = iter(batches)
    end = object()
    while (batch := _guarded(lambda: next(iterator, end), reference, "reading a batch from it")) is not end:
        yield batch


def _guarded(call: Callable[[], Any], reference: str, doing: str) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        found = f"{doing} failed with {type(error).__name__}: {error}"
        raise _error(reference, found, "correct it; --debug shows where") from error


def _error(reference: str, found: str, remedy: str) -> CalibrationError:
    return CalibrationError(f"--data-loader {reference}: {found}: {remedy}")
