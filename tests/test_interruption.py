"""Signals as a flag, in processes of their own: how they end, what they say, what they leave."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from onnx_lowrank import interruption

PREPARE = """
import os, signal, sys, time
from pathlib import Path
from onnx_lowrank import interruption
interruption.install()
interruption.begin()
"""
SAFE_PLACES = """
print("ready", flush=True)
try:
    while True:
        time.sleep(0.01)
        interruption.check()
except interruption.Interrupted as noticed:
    with interruption.last_line() as is_wanted:
        assert is_wanted
        sys.stderr.write(f"safe: {interruption.message(noticed.number)}\\n")
    sys.exit(128 + noticed.number)
"""
NO_SAFE_PLACE = """
print("ready", flush=True)
never = __import__("threading").Lock()
never.acquire()
never.acquire()  # in C, without the interpreter's lock, as where native code computes
"""


def start(code: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE + code, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, list[str], float]:
    """The exit code, what it said, and how long it took from now."""
    begin = time.monotonic()
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors.splitlines(), time.monotonic() - begin


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_safe_place_is_where_it_ends(number: signal.Signals, code: int, word: str) -> None:
    process = start(SAFE_PLACES)
    process.send_signal(number)
    assert end(process)[:2] == (code, [f"safe: {word}: nothing was written"])


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_without_a_safe_place_it_ends_in_time_and_cleans_up(
    tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    """Native code that does not return: the main thread runs nothing of Python's any more."""
    process = start(
        """
stack = __import__("contextlib").ExitStack()
Path(sys.argv[1]).write_text("on its way")
stack.enter_context(interruption.cleaned_up(lambda: Path(sys.argv[1]).unlink(missing_ok=True)))
interruption.note_written(Path("a.onnx"))
"""
        + NO_SAFE_PLACE,
        str(tmp_path / "file"),
    )
    assert (tmp_path / "file").exists()
    process.send_signal(number)
    ended, lines, seconds = end(process)
    assert (ended, lines) == (code, [f"error: {word}: complete and written before that: a.onnx"])
    assert seconds < 2
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_it_at_once() -> None:
    process = start("interruption.GRACE_S = 60.0" + NO_SAFE_PLACE)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ended, lines, seconds = end(process)
    assert (ended, lines) == (130, ["error: interrupted: nothing was written"])
    assert seconds < 2


def test_signals_close_behind_each_other_are_one() -> None:
    """`timeout` sends two: to the process, and to its group."""
    process = start("interruption.GRACE_S = 1.5" + NO_SAFE_PLACE)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    ended, lines, seconds = end(process)
    assert (ended, lines) == (130, ["error: interrupted: nothing was written"])
    assert seconds > 1


def test_before_the_command_begins_a_signal_ends_it_at_once() -> None:
    process = start("interruption._state.running = False; interruption.GRACE_S = 60.0" + NO_SAFE_PLACE)
    process.send_signal(signal.SIGTERM)
    ended, lines, seconds = end(process)
    assert (ended, lines) == (143, ["error: terminated: nothing was written"])
    assert seconds < 2


def test_a_patient_command_is_left_its_time_after_ctrl_c_but_not_after_sigterm() -> None:
    code = "interruption.GRACE_S = 0.3\ninterruption.be_patient()" + NO_SAFE_PLACE
    process = start(code)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130
    process = start(code)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 143


def test_work_may_go_on_after_an_interruption() -> None:
    process = start("""
interruption.GRACE_S = 0.3
print("ready", flush=True)
try:
    while True:
        time.sleep(0.01)
        interruption.check()
except KeyboardInterrupt:
    interruption.acknowledge()
    interruption.check()
    time.sleep(1)
    interruption.check()
    sys.stderr.write("written\\n")
""")
    process.send_signal(signal.SIGINT)
    assert end(process)[:2] == (0, ["written"])


def test_a_forced_end_waits_for_what_belongs_together(tmp_path: Path) -> None:
    process = start(
        """
interruption.GRACE_S = 0.1
with interruption.together():
    print("ready", flush=True)
    time.sleep(1)
    Path(sys.argv[1]).write_text("the second of two")
time.sleep(60)
""",
        str(tmp_path / "second"),
    )
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130
    assert (tmp_path / "second").exists()


def test_a_forced_end_waits_for_the_last_line() -> None:
    """The command has reached a safe place just before its time is over."""
    process = start("""
interruption.GRACE_S = 0.1
print("ready", flush=True)
while not interruption._state.heard:
    time.sleep(0.001)
with interruption.last_line() as is_wanted:
    time.sleep(0.5)
    print("said by the command" if is_wanted else "too late", file=sys.stderr)
time.sleep(60)
""")
    process.send_signal(signal.SIGINT)
    assert end(process)[:2] == (130, ["said by the command"])


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As in a job that a shell runs in the background."""
    ignored = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + PREPARE + """
print("ready", flush=True)
time.sleep(1)
interruption.check()
"""]  # fmt: skip
    process = subprocess.Popen(ignored, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert end(process)[:2] == (0, [])


@pytest.mark.parametrize("code", [0, 1])
def test_a_signal_while_python_ends_changes_nothing(code: int) -> None:
    process = start(f"""
import atexit
atexit.register(time.sleep, 1)
interruption.leave({code})
print("ready", flush=True)
sys.exit({code})
""")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert end(process)[:2] == (code, [])


def test_after_a_signal_nobody_tidies_up() -> None:
    process = start("""
import atexit
atexit.register(time.sleep, 30)
print("ready", flush=True)
while not interruption._state.heard:
    time.sleep(0.01)
print("said", end="")
interruption.leave(130)
""")
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert process.communicate(timeout=60)[0] == "said"
    assert process.returncode == 130
    assert time.monotonic() - begin < 2


def test_nothing_is_installed_where_nobody_asks_for_it() -> None:
    """In a program of someone else's, on any thread."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "onnx_lowrank/interruption" not in str(signal.getsignal(signal.SIGTERM))
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(interruption.check() is None))
    thread.start()
    thread.join()
    assert done == [True]
    with pytest.raises(KeyboardInterrupt) as raised:
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(raised.value, interruption.Interrupted)
