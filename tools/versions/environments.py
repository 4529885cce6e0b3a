"""Pythons of this machine, and environments of the oldest and newest allowed packages, made by uv."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bounds import TEST_TOOLS, normalized, oldest, requirements

ROOT = Path(__file__).parents[2]
KINDS = {
    "oldest": "the lower bounds of all requirements; where a release has no wheel for a Python, the next that has",
    "newest": "the newest releases",
    "old-runtime": "the newest releases, but the oldest onnxruntime",
    "old-onnx": "the newest releases, but the oldest onnx",
}
_OLD_ALONE = {"old-runtime": "onnxruntime", "old-onnx": "onnx"}
_UV = (sys.executable, "-m", "uv", "--quiet")
_WHEELS = ("--only-binary", ":all:")


def interpreters(releases: tuple[str, ...]) -> dict[str, Path]:
    """Find releases of Python, such as "3.12", on the PATH and among pyenv's: path by release."""
    found: dict[str, Path] = {}
    folders = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"))
    for release in releases:
        name = f"python{release}"
        candidates = [shutil.which(name), *(shutil.which(name, path=str(folder)) for folder in folders)]
        # pyenv's shims lie on the PATH, also those of releases that its user has not chosen, which fail.
        if path := next((each for each in candidates if each and _starts(each)), None):
            found[release] = Path(path)
    return found


def _starts(python: str) -> bool:
    return subprocess.run([python, "-V"], check=False, capture_output=True).returncode == 0


def packages(project: Path, kind: str, extras: tuple[str, ...], pins: tuple[str, ...] = ()) -> list[str]:
    """Return what is to be installed, as uv reads it.

    Args:
        project: path of pyproject.toml.
        kind: one of `KINDS`.
        extras: names of `project.optional-dependencies`.
        pins: further requirements, such as "onnx==1.21.0".

    Raises:
        ValueError: for a requirement without a lower bound.
    """
    wanted = requirements(project, extras)
    bounds = {normalized(each.name): oldest(each) for each in wanted}
    alone = _OLD_ALONE.get(kind)
    return [*map(str, wanted), *([f"{alone}=={bounds[alone]}"] if alone else []), *pins]


def install(python: Path, folder: Path, wanted: list[str], *, lowest: bool) -> Path:
    """Make an environment with packages, what the tests need, and this package; return its Python.

    Args:
        python: that the environment is for.
        folder: to make.
        wanted: see `packages`.
        lowest: whether to take the lowest releases that are wanted instead of the highest.

    Raises:
        CalledProcessError: if no releases fit each other, or without the network; uv has said which.
    """
    subprocess.run([*_UV, "venv", "--python", python, folder], check=True)
    inside = folder / "bin" / "python"
    install = [*_UV, "pip", "install", "--python", str(inside)]
    resolution = ["--resolution", "lowest-direct" if lowest else "highest"]
    # What the tests need is the newest that goes with the rest; only this package is built here.
    subprocess.run([*install, *_WHEELS, *resolution, *wanted], check=True)
    subprocess.run([*install, *_WHEELS, *TEST_TOOLS], check=True)
    subprocess.run([*install, "--no-deps", str(ROOT)], check=True)
    return inside


def versions(python: Path) -> dict[str, str]:
    """Return the installed version of each package of an environment, by its normalized name."""
    command = [*_UV, "pip", "list", "--format", "json", "--python", str(python)]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {normalized(entry["name"]): entry["version"] for entry in listed}
