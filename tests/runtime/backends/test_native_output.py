"""What is printed past Python does not reach the user's pipes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onnx_lowrank.runtime.backends.native_output import native_output


def test_it_is_collected_and_nothing_else_is(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with native_output() as printed:
        os.write(1, b"one\n")
        os.write(2, b"two\n")
        subprocess.run([sys.executable, "-c", "print('three')"], check=True)
        assert printed() == "one\ntwo\nthree"
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "")


def test_only_the_end_of_much_is_kept() -> None:
    with native_output() as printed:
        os.write(1, b"x" * 100_000 + b" the end")
        assert printed().endswith("x the end")
        assert len(printed()) == 4_000


def test_output_is_back_where_the_block_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with native_output():
            os.write(1, b"lost")
            raise ValueError("reason")

    with pytest.raises(ValueError, match="reason"):
        fail()
    os.write(1, b"found")
    assert capfd.readouterr().out == "found"


def test_without_standard_output() -> None:
    program = (
        "import os; os.close(1); os.close(2)\n"
        "from onnx_lowrank.runtime.backends.native_output import native_output\n"
        "with native_output() as printed: assert printed() == ''\n"
        "os._exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 7
