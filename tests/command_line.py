"""The command line, run inside the test."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from onnx_lowrank.cli import program


def call(*words: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(program, words, prog_name="onnx-lowrank")


def works(*words: str) -> Result:
    """Run a command that must succeed."""
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result


def fails(folder: Path, *words: str, code: int = 1) -> str:
    """Run a command that must fail with one line of error and leave the folder as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = call(*words)
    assert result.exit_code == code, result.output
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    return errors[0]


def misused(folder: Path, *words: str) -> str:
    """Run a command line that is wrong in itself: exit code 2, and the folder as it was. Returns what is wrong."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert result.stdout == ""
    usage, _, error = result.stderr.partition("Error: ")
    assert usage.startswith("Usage: onnx-lowrank")
    assert "Traceback" not in result.stderr
    return error.strip()
