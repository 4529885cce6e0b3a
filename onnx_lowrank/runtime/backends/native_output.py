"""What libraries print past Python, to the descriptors of standard output and error: kept out of the user's pipes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_MAX_BYTES = 4_000


@contextmanager
def native_output() -> Iterator[Callable[[], str]]:
    """Collect what is printed inside the block, by whatever means and thread.

    Yields:
        returns the last lines so far, stripped; nothing where the process has no standard output and error.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or somebody else's
            stream.flush()
    with tempfile.TemporaryFile() as file:
        saved: dict[int, int] = {}
        try:
            for number in (1, 2):
                with suppress(OSError):  # closed
                    saved[number] = os.dup(number)
                    os.dup2(file.fileno(), number)

            def printed() -> str:
                size = os.fstat(file.fileno()).st_size
                content = os.pread(file.fileno(), _MAX_BYTES, max(0, size - _MAX_BYTES))
                return content.decode(errors="replace").strip()

            yield printed
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
