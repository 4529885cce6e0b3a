"""Standard output, whose failures can be told from those of other files."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from onnx_lowrank import interruption
from onnx_lowrank.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _StandardOutputError(OSError):
    """Standard output cannot be written, for example since it is a file on a full disk."""


class _StandardOutput(io.FileIO):
    def write(self, content: ReadableBuffer, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            raise  # whoever read it has seen enough; click ends with this
        except OSError as error:
            raise _StandardOutputError(error.errno, error.strerror) from error


def replace_standard_output() -> None:
    """Have failures of standard output noticed by `flushed`, and letters that it cannot encode be written as codes."""
    if not isinstance(sys.stdout, io.TextIOWrapper):  # closed, or somebody else's
        return
    if isinstance(getattr(sys.stdout.buffer, "raw", None), _StandardOutput):  # of an earlier call
        return
    sys.stdout.flush()
    raw = _StandardOutput(sys.stdout.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), sys.stdout.encoding, "backslashreplace", line_buffering=sys.stdout.line_buffering
    )


@contextmanager
def flushed() -> Iterator[None]:
    """Flush standard output after the block; where that cannot be written, a file that was written counts nonetheless.

    Raises:
        OutputError: nothing but standard output was to hold the result.
    """
    try:
        yield
        sys.stdout.flush()
    except _StandardOutputError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again as it ends
        if not interruption.anything_written():
            raise OutputError(
                f"standard output: cannot be written ({error.strerror}), and holds all that was asked for: free some "
                "space or choose another place"
            ) from error
        click.echo(f"warning: standard output: cannot be written ({error.strerror}); the files are complete", err=True)
