"""Run the quick tests with the oldest and the newest packages that pyproject.toml allows.

``python tools/versions/versions.py``, in an environment with uv and packaging, or ``make versions``. For each Python of
pyproject.toml's classifiers that is found on the PATH or among pyenv's, and each kind of environment, prints how many
tests passed, failed and were skipped, and which failed. Needs the network, 500 MB at a time, and some minutes for each.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from bounds import EXTRAS, pythons
from counts import TESTS, run_tests
from environments import KINDS, ROOT, install, interpreters, packages, versions

_SHOWN = ("numpy", "scipy", "onnx", "onnxruntime", "protobuf")


def main() -> None:
    """Print a line for each environment; exit with 1 if a test failed."""
    project = ROOT / "pyproject.toml"
    given = _arguments(pythons(project))
    found, good = interpreters(tuple(given.python)), True
    for release in given.python:
        if release not in found:
            print(f"Python {release}: not found", flush=True)
    for (release, python), kind in itertools.product(found.items(), given.kind):
        wanted = packages(project, kind, (*EXTRAS, *given.extra), tuple(given.pin))
        with tempfile.TemporaryDirectory() as folder:
            inside = install(python, Path(folder, "venv"), wanted, lowest=kind == "oldest")
            installed = versions(inside)
            counts = run_tests(inside, ROOT, Path(folder), given.tests)
        shown = ", ".join(f"{name} {installed[name]}" for name in _SHOWN)
        print(f"Python {release}, {kind} ({shown}): {counts}", flush=True)
        good = good and not counts.failed
    sys.exit(0 if good else 1)


def _arguments(releases: tuple[str, ...]) -> argparse.Namespace:
    kinds = "\n".join(f"{kind}: {what}" for kind, what in KINDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=kinds, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", nargs="*", default=list(TESTS), help="default: those that touch other packages")
    parser.add_argument("--python", action="extend", nargs=1, metavar="RELEASE", help="such as 3.11; may be repeated")
    parser.add_argument("--kind", action="extend", nargs=1, choices=KINDS, help="of environment; may be repeated")
    parser.add_argument("--extra", action="append", default=[], help="of pyproject.toml, such as torch: several GB")
    parser.add_argument("--pin", action="append", default=[], metavar="NAME==VERSION", help="in place of the kind's")
    given = parser.parse_args()
    given.python, given.kind = given.python or list(releases), given.kind or list(KINDS)
    return given


if __name__ == "__main__":
    main()
