"""Run tests in an environment, and count them."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

# Those that touch onnx, onnxruntime, NumPy and SciPy. Pages, tutorials, signals and large models take long and say
# little about releases of other packages.
TESTS = (
    *("tests/graph", "--ignore=tests/graph/test_publication.py", "tests/layers", "tests/linalg", "tests/runtime"),
    "--ignore=tests/linalg/test_threads_interrupted.py",
    *("tests/ranks", "tests/calibrate", "tests/solve", "tests/verify", "tests/metrics", "tests/test_pipeline.py"),
    *("tests/conformance/test_wild_graphs.py", "tests/conformance/test_support.py", "tests/report/test_svg.py"),
)
# What onnxruntime says of a model that is newer than itself: such a test asks for what that release cannot do.
_TOO_NEW = ("Current official support for domain ai.onnx is till opset", "Unsupported model IR version")


@dataclass(frozen=True)
class Counts:
    """What became of tests.

    Attributes:
        passed: how many did.
        failed: names of those that failed or could not start.
        skipped: how many, such as those of an optional package that is not there.
        too_new: how many ended because their model is of an opset or IR version that this onnxruntime does not read.
    """

    passed: int
    failed: tuple[str, ...]
    skipped: int
    too_new: int

    def __str__(self) -> str:
        """Return one line, and one more for each test that failed."""
        line = f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped"
        line += f", {self.too_new} with models too new for this onnxruntime" if self.too_new else ""
        return "\n  ".join([line, *self.failed])


def run_tests(python: Path, root: Path, folder: Path, tests: list[str]) -> Counts:
    """Run the quick ones among tests, in one process with linear algebra on one thread.

    Args:
        python: of an environment that has pytest.
        root: of the repository.
        folder: for what pytest writes: ``tests.xml``, and ``output.txt``.
        tests: files and folders, relative to the root.

    Raises:
        RuntimeError: if pytest itself failed, with the end of what it wrote.
    """
    file, output = folder / "tests.xml", folder / "output.txt"
    pytest = [str(python), "-m", "pytest", "-q", "-m", "not slow and not nightly", f"--junitxml={file}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CI": "true"}
    with output.open("w") as written:
        # An old package warns of what newer ones beside it deprecate, which its users see, but which breaks nothing.
        options = ["-o", "addopts=--import-mode=importlib", "-W", "default::DeprecationWarning"]
        command = [*pytest, "-p", "no:cacheprovider", *options, *tests]
        subprocess.run(command, cwd=root, env=environment, stdout=written, stderr=subprocess.STDOUT, check=False)
    if not file.exists():
        raise RuntimeError(f"{' '.join(command)}: did not run:\n{output.read_text()[-2000:]}")
    return counted(file)


def counted(file: Path) -> Counts:
    """Count what pytest wrote for build servers, XML in the form of JUnit."""
    cases = list(ET.parse(file).iter("testcase"))
    bad = [(case, entry) for case in cases for entry in case if entry.tag in {"failure", "error"}]
    failed = {f"{case.get('classname')}::{case.get('name')}": _is_too_new(entry) for case, entry in bad}
    skipped = sum(case.find("skipped") is not None for case in cases)
    wrong = tuple(name for name, too_new in failed.items() if not too_new)
    return Counts(len(cases) - len(failed) - skipped, wrong, skipped, len(failed) - len(wrong))


def _is_too_new(entry: ET.Element) -> bool:
    text = f"{entry.get('message')} {entry.text}"
    return any(message in text for message in _TOO_NEW)
