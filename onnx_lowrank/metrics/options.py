"""The options of a named metric: what follows its name and a colon, as in ``map:layout=yolox,score=0.5``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onnx_lowrank.errors import CalibrationError


def read_options(metric: str, text: str, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return the options that are given.

    Args:
        metric: its name, for messages.
        text: of the options, ``name=value`` with commas between them; empty for none.
        known: what makes a value of each option's text; raises ValueError, with what is wanted, for a wrong one.

    Raises:
        CalibrationError: an option is unknown, without a value or given twice, or its value is wrong.

    >>> read_options("map", "score=0.5,layout=yolox", {"score": float, "layout": str})
    {'score': 0.5, 'layout': 'yolox'}
    """
    found: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        name, equals, value = part.strip().partition("=")
        if name not in known:
            wanted = f"one of {', '.join(known)} is wanted" if known else "it takes none"
            raise CalibrationError(f"metric {metric}: option '{name}' found, {wanted}: correct it")
        if not equals or name in found:
            fault = "given twice" if name in found else "without a value"
            raise CalibrationError(f"metric {metric}: option '{name}' {fault}: write {name}=VALUE once")
        try:
            found[name] = known[name](value)
        except ValueError as error:
            raise CalibrationError(f"metric {metric}: {name}='{value}' found, {error} is wanted: correct it") from error
    return found


def one_of(*values: str) -> Callable[[str], str]:
    """Return a reader of an option that has one of a few values."""

    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return text

    return read


def share(text: str) -> float:
    """Read an option that lies between 0 and 1.

    Raises:
        ValueError: it does not.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1")
    return number


def count(text: str) -> int:
    """Read an option that is a whole number, at least 0.

    Raises:
        ValueError: it is not.
    """
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a whole number from 0")
    return int(text)
