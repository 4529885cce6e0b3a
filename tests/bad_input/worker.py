"""The command line in a process of its own: what it does to itself, no test has to suffer.

A broken model may make onnxruntime crash, take all memory or run forever. ``python -m tests.bad_input.worker`` reads
commands, each a line with a JSON list of words, and answers each with a line that says what became of it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

from tests.command_line import call

MOST_MEMORY_BYTES = 6 * 2**30
LONGEST_SECONDS = 60


class Outcome(NamedTuple):
    """What became of a command.

    Attributes:
        code: its exit code; negative where a signal ended the process.
        output: what it wrote on stdout.
        errors: what it wrote on stderr, and what native code wrote anywhere.
        raised: the exception that left the program; empty where none did.
    """

    code: int
    output: str = ""
    errors: str = ""
    raised: str = ""


class Worker:
    """Runs commands one after the other, in a new process where the last one did not survive.

    Args:
        folder: where they run, and where temporary files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, *words: str) -> Outcome:
        """Run a command."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps(words)}\n")
        process.stdin.flush()
        if answer := process.stdout.readline():
            return Outcome(*json.loads(answer))
        self.stop()
        return Outcome(process.returncode)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()  # closes its stdin, which is all it waits for
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        root = Path(__file__).parents[2]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.bad_input.worker"],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(root), "TMPDIR": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def answer_all() -> None:
    """Run what is asked for until nothing is."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    for kind in (RuntimeWarning, UserWarning):  # users see them; here every time, not just the first
        warnings.simplefilter("always", kind)
    with os.fdopen(os.dup(1), "w") as answers, tempfile.TemporaryFile() as spilled:
        for stream in (1, 2):
            os.dup2(spilled.fileno(), stream)
        for line in sys.stdin:
            signal.alarm(LONGEST_SECONDS)
            result = call(*json.loads(line))
            signal.alarm(0)
            raised = "" if isinstance(result.exception, SystemExit | None) else repr(result.exception)
            spilled.seek(0)
            native = spilled.read().decode(errors="replace")
            spilled.seek(0)
            spilled.truncate()
            answer = Outcome(result.exit_code, result.stdout, result.stderr + native, raised)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    answer_all()
