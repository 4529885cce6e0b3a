"""Ctrl-C and SIGTERM in the command line: a flag that is looked at where it is safe, and a bound on the time it takes.

An exception that a signal raises may land anywhere: in a lock that is then held for ever, between two files that belong
together. So signals only set a flag here, and `check` raises where nothing can be torn::

    signal -> flag -> check() raises `Interrupted` -> files on their way are removed -> one line, exit code 130 or 143
           -> after `GRACE_S`, or at a second signal: a thread that waits for this does the same, and ends the process

The second way is for native code, which may run for long without a look at the flag. Python's C part tells the thread
of a signal at once, whatever the main thread does.

Only the command line calls `install`. In a program of someone else's `check` does nothing, and Ctrl-C stays what that
program makes of it.

Nothing heavy may be imported here: the command line listens before it imports the rest.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from math import inf
from pathlib import Path
from types import FrameType

GRACE_S = 1.0  # from a signal to the end of the process, where no safe place is reached before
_SAME_S = 0.2  # signals so close are one: `timeout` sends it to the process and to its group
_LONGEST_RENAMING_S = 10.0  # that a forced end waits for: of files that are complete, into their places
_POLL_S = 0.01

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupted(KeyboardInterrupt):
    """A signal was noticed in a safe place.

    Attributes:
        number: of the signal.
        found: what stays, where it is not for `message` to say.
    """

    def __init__(self, number: int, found: str = "") -> None:
        super().__init__(found)
        self.number, self.found = number, found


class _State:
    """What is known of signals in this process, which runs one command at a time.

    Attributes:
        number: of the signal that `check` raises for; None without one.
        heard: whether a signal has come.
        running: whether the command has begun, and looks at the flag.
        patient: whether Ctrl-C is left to the command, however long it takes.
        ending: whether the process is being ended by force.
        lines: one token, taken by whoever says that the command was interrupted.
        written: files that are complete and in their places.
        cleanups: what to do before the process is ended by force.
        critical: tokens of what a forced end waits for.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.heard = False
        self.running = self.patient = self.ending = False
        self.lines = [object()]
        self.written: list[Path] = []
        self.cleanups: list[Callable[[], None]] = []
        self.critical: list[object] = []


_state = _State()
_is_wanted: ContextVar[Callable[[], bool]] = ContextVar("is_wanted", default=lambda: True)


def check() -> None:
    """Raise where a signal has come, or nobody waits for this work; called where nothing can be torn, from any thread.

    Raises:
        Interrupted: a signal has come, or the thread that wanted this work waits for nothing but its end.
    """
    if _state.number is not None:
        raise Interrupted(_state.number)
    if not _is_wanted.get()():
        raise Interrupted(signal.SIGINT)


@contextlib.contextmanager
def while_wanted(is_wanted: Callable[[], bool]) -> Iterator[None]:
    """Have `check` raise inside the block, on this thread alone, once ``is_wanted`` returns False."""
    token = _is_wanted.set(is_wanted)
    try:
        yield
    finally:
        _is_wanted.reset(token)


def install() -> None:
    """Listen to Ctrl-C and SIGTERM from now on; until `begin`, a signal ends the process at once.

    A signal that is ignored, as in a job in the background of a shell, stays so.
    """
    heard = [number for number in _NAMES if signal.getsignal(number) is not signal.SIG_IGN]
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in heard:  # those that come before the listener runs wait for it
        signal.signal(number, _leave_to_the_listener)
    threading.Thread(target=_listen, args=(reader, writer, frozenset(heard)), daemon=True).start()


def begin() -> None:
    """Begin a command: it has written nothing yet, and has the time to reach a safe place after a signal."""
    _state.running, _state.patient, _state.lines = True, False, [object()]
    _state.written.clear()


def be_patient() -> None:
    """Leave Ctrl-C to the command: it has something worth saving, and looks at the flag in its own time."""
    _state.patient = True


def acknowledge() -> None:
    """Let work go on after an interruption, to write what there is; the next signal ends the process at once."""
    _state.number = None


def with_text(error: KeyboardInterrupt, found: str) -> KeyboardInterrupt:
    """Return an interruption by the same signal that says what stays."""
    return Interrupted(error.number if isinstance(error, Interrupted) else signal.SIGINT, found)


def message(number: int, found: str = "") -> str:
    """Return the line that a command ends with after a signal.

    Args:
        number: of the signal.
        found: what stays; empty for what was written.
    """
    what = _NAMES[signal.Signals(number)]
    if found:
        return f"{what}: {found}"
    if not _state.written:
        return f"{what}: nothing was written"
    return f"{what}: complete and written before that: {', '.join(map(str, _state.written))}"


def leave(code: int) -> None:
    """End the process at once where a signal has come; else let Python end it, and signals come too late.

    Libraries may take seconds to tidy up as Python ends, PyTorch for one. Python takes its handlers away before, and a
    signal would make a success look like a failure.

    Args:
        code: exit code.
    """
    for number in _NAMES:
        signal.signal(number, signal.SIG_IGN)
    if not _state.heard:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def last_line() -> Iterator[bool]:
    """Hold back a forced end for a block that says that the command was interrupted.

    Yields:
        whether nobody has said it yet.
    """
    with together():
        yield _take_line()


def note_written(path: Path) -> None:
    """Remember that a file is complete and in its place."""
    if path not in _state.written:
        _state.written.append(path)


def anything_written() -> bool:
    """Return whether the command has written a file."""
    return bool(_state.written)


@contextlib.contextmanager
def cleaned_up(clean: Callable[[], None]) -> Iterator[None]:
    """Call ``clean`` after the block, or before the process is ended by force inside of it.

    Args:
        clean: may be called twice, and while the block runs.
    """
    _state.cleanups.append(clean)
    try:
        yield
    finally:
        clean()
        _state.cleanups.remove(clean)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Run a short block as a whole: a forced end waits for it, or comes first and for good."""
    token = object()
    _state.critical.append(token)
    if _state.ending:
        _state.critical.remove(token)
        while True:  # until the process is gone
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        _state.critical.remove(token)


def _leave_to_the_listener(number: int, frame: FrameType | None) -> None:
    """Do nothing in the main thread: Python has told the listener before this runs."""


def _listen(reader: socket.socket, writer: socket.socket, heard: frozenset[int]) -> None:  # noqa: ARG001  (kept open)
    """Set the flag when a signal comes, and end the process where that does not end it in time."""
    first, latest, deadline = 0, 0.0, inf
    while True:
        timeout = None if deadline == inf else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([reader], [], [], timeout)
        now = time.monotonic()
        for number in (each for each in (reader.recv(64) if ready else b"") if each in heard):
            if not first:
                first = _state.number = number
                _state.heard = True
                patient = _state.patient and number == signal.SIGINT
                deadline = inf if patient else now + (GRACE_S if _state.running else 0)
            elif now - latest > _SAME_S:
                _end(first)
            latest = now
        if now >= deadline:
            if _state.number is not None:
                _end(first)
            deadline = inf  # the command goes on knowingly


def _take_line() -> bool:
    try:
        _state.lines.pop()
    except IndexError:
        return False
    return True


def _end(number: int) -> None:
    """End the process from outside of the main thread, which may be anywhere."""
    _state.ending = True
    longest = time.monotonic() + _LONGEST_RENAMING_S
    while _state.critical and time.monotonic() < longest:
        time.sleep(_POLL_S)
    for clean in reversed(_state.cleanups.copy()):
        with contextlib.suppress(Exception):
            clean()
    if _take_line():
        with contextlib.suppress(OSError):
            cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # progress bars hide it
            os.write(2, f"{cursor}error: {message(number)}\n".encode(errors="backslashreplace"))
    os._exit(128 + number)
