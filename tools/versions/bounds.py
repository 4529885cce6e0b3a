"""What pyproject.toml allows to be installed: requirements, and the oldest release that each of them names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

# Without the extra for GPUs, whose onnxruntime must not be installed beside that of `cpu`, and without PyTorch, which
# takes several GB: `versions.py --extra torch` adds it.
EXTRAS = ("cpu", "report", "metrics", "demo")
TEST_TOOLS = ("hypothesis", "onnxconverter-common", "packaging", "polygraphy", "pytest", "pytest-xdist")


def requirements(project: Path, extras: tuple[str, ...] = EXTRAS) -> list[Requirement]:
    """Read what the package and some of its extras require, in the order of pyproject.toml.

    Args:
        project: path of pyproject.toml.
        extras: names of `project.optional-dependencies`.

    Raises:
        KeyError: for an extra that pyproject.toml does not have.
    """
    described = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    lines = list(described["dependencies"])
    for extra in extras:
        lines += described["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def oldest(requirement: Requirement) -> Version:
    """Return the lower bound of a requirement.

    Raises:
        ValueError: if it has none, or has more than one: then nobody can say what the oldest allowed release is.
    """
    bounds = [Version(entry.version) for entry in requirement.specifier if entry.operator in {">=", "==", "~="}]
    if len(bounds) != 1:
        raise ValueError(f"pyproject.toml: {requirement} has {len(bounds)} lower bounds: write one, as NAME>=VERSION")
    return bounds[0]


def normalized(name: str) -> str:
    """Return a package's name as package indexes compare it: in small letters, with hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pythons(project: Path) -> tuple[str, ...]:
    """Return the releases of Python that pyproject.toml names in its classifiers, such as ("3.11", "3.12")."""
    described = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    matches = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in described["classifiers"])
    return tuple(match[1] for match in matches if match)
