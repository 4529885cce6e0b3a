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
    *("tests/calibrate", "tests/graph", "tests/layers", "tests/linalg", "tests/ranks", "tests/runtime", "tests/verify"),
    *("tests/metrics", "tests/solve", "tests/commands", "tests/test_pipeline.py", "tests/report/test_svg.py"),
    *("tests/conformance/test_wild_graphs.py", "tests/conformance/test_support.py", "tests/cli/test_convert.py"),
)


@dataclass(frozen=True)
class Counts:
    """What became of tests.

    Attributes:
        passed: how many did.
        failed: names of those that failed or could not start.
        skipped: how many, such as those of an optional package that is not there.
    """

    passed: int
    failed: tuple[str, ...]
    skipped: int

    def __str__(self) -> str:
        """Return one line, and one more for each test that failed."""
        line = f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped"
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
        command = [*pytest, "-p", "no:cacheprovider", *tests]
        subprocess.run(command, cwd=root, env=environment, stdout=written, stderr=subprocess.STDOUT, check=False)
    if not file.exists():
        raise RuntimeError(f"{' '.join(command)}: did not run:\n{output.read_text()[-2000:]}")
    return counted(file)


def counted(file: Path) -> Counts:
    """Count what pytest wrote for build servers, XML in the form of JUnit."""
    cases = list(ET.parse(file).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    names = dict.fromkeys(f"{case.get('classname')}::{case.get('name')}" for case in failed)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Counts(len(cases) - len(failed) - skipped, tuple(names), skipped)
