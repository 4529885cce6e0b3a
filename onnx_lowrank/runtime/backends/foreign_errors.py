"""Errors of other libraries as ours: what they raise shares no base class but Exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from onnx_lowrank.errors import ModelError


@contextmanager
def as_model_error(what: str, words: Callable[[Exception], str] = str) -> Iterator[None]:
    """Raise ModelError for whatever a runtime raises inside the block.

    Not around what is timed, since entering the block takes a microsecond.

    Args:
        what: what it cannot do, such as ``model: MNN cannot load it``.
        words: returns what the error says.

    Raises:
        ModelError: with ``what`` and these words.
    """
    try:
        yield
    except Exception as error:
        raise ModelError(f"{what}: {words(error)}".rstrip()) from error
