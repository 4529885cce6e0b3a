"""Converters as programs of their own: what they print is in the error, and they do not outlive this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from onnx_lowrank import interruption
from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends.converter import run_converter

WHAT = "net.onnx: pnnx cannot convert it"


def run(folder: Path, program: str, *arguments: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    run_converter(command, folder, WHAT, "out.bin", {"OWN": "7"})


def alive(pid: int) -> bool:
    """Whether a process runs, and is not one that has ended and waits for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def wait_until(done: object, seconds: float = 20.0) -> bool:
    begin = time.monotonic()
    while not done():  # type: ignore[operator]
        if time.monotonic() - begin > seconds:
            return False
        time.sleep(0.01)
    return True


def test_it_runs_in_the_folder_with_its_arguments(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(
        tmp_path,
        "import os, sys; print('noise'); print('noise', file=sys.stderr); "
        "open('out.bin', 'w').write(sys.argv[1] + os.environ['OWN'] + os.environ['HOME'])",
        "a b=[1,2]",
    )
    assert (tmp_path / "out.bin").read_text() == f"a b=[1,2]7{os.environ['HOME']}"
    assert capfd.readouterr() == ("", "")


def test_variables_of_this_process_can_be_kept_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    program = "import os; open('out.bin', 'w').write(str('OURS' in os.environ))"
    for environment, found in ((None, "True"), ({"OURS": None}, "False")):
        run_converter([sys.executable, "-c", program], tmp_path, WHAT, "out.bin", environment)
        assert (tmp_path / "out.bin").read_text() == found


def test_one_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(tmp_path, "import sys; print('step 1'); print('=====', file=sys.stderr); sys.exit('no such operator: Foo')")
    assert str(caught.value) == f"{WHAT}: it failed (exit code 1): step 1 | no such operator: Foo"


def test_one_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(tmp_path, "pass")
    assert str(caught.value) == f"{WHAT}: it wrote no model: it printed nothing"


def test_one_that_crashes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it crashed \(signal 6\): last words"):
        run(tmp_path, "import os; os.write(1, b'last words'); os.abort()")


def test_only_the_last_lines_count(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(tmp_path, "print('\\n'.join(f'line {n}' for n in range(100)))")
    assert str(caught.value).endswith(": " + " | ".join(f"line {number}" for number in range(94, 100)))


SLEEP = "import os, time; open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'ready'); time.sleep(600)"


def test_an_interruption_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        if (tmp_path / "ready").exists():
            raise interruption.Interrupted(signal.SIGINT)

    monkeypatch.setattr(interruption, "check", check)
    with pytest.raises(interruption.Interrupted):
        run(tmp_path, SLEEP)
    assert not alive(int((tmp_path / "ready").read_text()))


def test_a_forced_end_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that ends the process calls what `cleaned_up` was given."""

    def force() -> None:
        wait_until(lambda: (tmp_path / "ready").exists() and interruption._state.cleanups)
        for clean in interruption._state.cleanups.copy():
            clean()

    thread = threading.Thread(target=force)
    thread.start()
    with pytest.raises(ModelError, match=r"it crashed \(signal 9\)"):
        run(tmp_path, SLEEP)
    thread.join()
    assert not alive(int((tmp_path / "ready").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have nothing like it")
def test_it_does_not_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    program = f"""
        from pathlib import Path
        import sys
        from onnx_lowrank.runtime.backends.converter import run_converter
        run_converter([sys.executable, "-c", {SLEEP!r}], Path({str(tmp_path)!r}), "net", "out.bin")
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        assert wait_until((tmp_path / "ready").exists)
    finally:
        parent.kill()
        parent.wait()
    pid = int((tmp_path / "ready").read_text())
    assert wait_until(lambda: not alive(pid))
