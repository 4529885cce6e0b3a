"""Work that is shared out, under a timer that raises KeyboardInterrupt between any two instructions, as Ctrl-C does."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOP = """
import faulthandler, random, signal, sys, time
from onnx_lowrank.calibrate.data.prefetch import prefetch
from onnx_lowrank.linalg.blas_threads import one_thread, unlimited_threads
from onnx_lowrank.linalg.threads import Crew, on_threads

crew = Crew(3)

def interrupt(number, frame):
    raise KeyboardInterrupt

def shared_out(crew=None):
    assert list(on_threads(lambda item: item * item, range(8), 3, crew)) == [item * item for item in range(8)]

def shared_out_again():
    shared_out(crew)

def read_ahead():
    assert list(prefetch(lambda key: key + 1, range(8), ahead=2)) == list(range(1, 9))

def limited():
    for _ in range(3):
        with one_thread():
            assert unlimited_threads() == before

before = unlimited_threads()
signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
end, interrupted = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    faulthandler.dump_traceback_later(20, exit=True)
    for work in (shared_out, shared_out_again, read_ahead, limited):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
            work()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
signal.setitimer(signal.ITIMER_REAL, 0)
limited()
print(interrupted)
"""


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.nightly)])
def test_ctrl_c_at_any_moment_never_hangs(seconds: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOP, str(seconds)], capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20 * seconds
