"""README's commands, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.users_folder import fill_folder

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"<!-- run -->\n```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_folder(tmp_path_factory.mktemp("readme"), step=100)


def test_there_is_something_to_run() -> None:
    assert [language for language, _ in BLOCKS] == ["", "python"]


def test_commands(folder: Path) -> None:
    for line in BLOCKS[0][1].strip().splitlines():
        words = line.split("#")[0].split()
        assert words[0] == "onnx-lowrank"
        done = subprocess.run(
            [sys.executable, "-m", "onnx_lowrank", *words[1:]], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert (folder / "fast.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    assert (folder / "report.html").exists()


def test_python(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKS[1][1]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) >= 2
    assert (folder / "fast2.onnx").exists()


def test_the_map_is_the_tree() -> None:
    """Everything at the package's top is on the map but what each package has, and nothing else is."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+(?:/|\.py)) ", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    package = ROOT / "onnx_lowrank"
    there = {f"{path.name}/" for path in package.iterdir() if list(path.glob("*.py"))}
    there |= {path.name for path in package.glob("*.py")}
    assert set(listed) == there - {"__init__.py", "__main__.py", "version.py"}
