"""The command line in a process of its own that begins at once: a fork of one that has imported the package already.

Python needs a second of work to import what the package stands on, and three more for PyTorch. Tests that hit a process
in the middle, and not while it starts, save that: what happens to the process, and how it ends, is as in any other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: its exit code; negative where a signal ended it.
        output: what it wrote on stdout.
        errors: what it wrote on stderr.
    """

    code: int
    output: str
    errors: str


class Forked:
    """A process, used as one of `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative after a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs still."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended.

        Raises:
            TimeoutExpired: if it runs still after so many seconds.
        """
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("onnx-lowrank", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[None, None]:
        """Wait for its end; what it writes goes to files."""
        self.wait(timeout)
        return None, None


def start(
    folder: Path,
    *words: str,
    prepare: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
    output: str = os.devnull,
    errors: str = os.devnull,
) -> Forked:
    """Start a command.

    Args:
        folder: where it runs.
        words: of the command line.
        prepare: called in the new process, before the command; can be pickled.
        environment: of the process, added to that of the test.
        output: file for stdout.
        errors: file for stderr.
    """
    for path in (output, errors):
        Path(path).touch()  # so that it can be read from now on
    variables = os.environ | dict(environment or {})
    arguments = (prepare, words, str(folder), variables, (output, errors))
    process = _context().Process(target=_run, args=arguments)
    process.start()
    return Forked(process)


def run(
    folder: Path,
    *words: str,
    prepare: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
    output: str = "",
    timeout: float = 120,
) -> Ended:
    """Run a command to its end, see `start`; what it writes on stdout is kept where no file is named for it."""
    with tempfile.NamedTemporaryFile() as written, tempfile.NamedTemporaryFile() as errors:
        process = start(
            folder, *words, prepare=prepare, environment=environment, output=output or written.name, errors=errors.name
        )
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return Ended(code, written.read().decode(), errors.read().decode())


@cache
def _context() -> ForkServerContext:
    """Start the process that others are forked from; it imports the package of this tree, on one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.imported"])
    usual = dict(os.environ)
    os.environ.update({"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(usual)
    return context


def _run(
    prepare: Callable[[], None] | None,
    words: tuple[str, ...],
    folder: str,
    environment: dict[str, str],
    streams: tuple[str, str],
) -> None:
    """Be the command."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["onnx-lowrank", *words]
    if prepare is not None:
        prepare()
    from onnx_lowrank.__main__ import main

    main()
