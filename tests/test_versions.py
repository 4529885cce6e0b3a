"""Which packages `tools/versions` installs, and how it counts; no environment is made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from bounds import EXTRAS, TEST_TOOLS, normalized, oldest, pythons, requirements
from counts import counted, run_tests
from environments import KINDS, packages

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.fixture
def described(tmp_path: Path) -> Path:
    file = tmp_path / "pyproject.toml"
    file.write_text("""
        [project]
        classifiers = ["Programming Language :: Python :: 3 :: Only", "Programming Language :: Python :: 3.12"]
        dependencies = ["numpy>=2.0", "Pillow_Like>=1,!=1.5"]
        [project.optional-dependencies]
        cpu = ["onnxruntime~=1.20"]
        gpu = ["onnxruntime-gpu>=1.20"]
    """)
    return file


def test_requirements_are_those_of_the_package_and_of_the_extras_asked_for(described: Path) -> None:
    assert [each.name for each in requirements(described, ())] == ["numpy", "Pillow_Like"]
    assert [each.name for each in requirements(described, ("cpu",))] == ["numpy", "Pillow_Like", "onnxruntime"]
    with pytest.raises(KeyError, match="tpu"):
        requirements(described, ("tpu",))


@pytest.mark.parametrize(
    ("requirement", "wanted"), [("numpy>=2.0", "2"), ("a>=1.2,!=1.3,<2", "1.2"), ("a~=1.20", "1.20"), ("a==3", "3")]
)
def test_the_oldest_release_is_the_lower_bound(requirement: str, wanted: str) -> None:
    assert oldest(Requirement(requirement)) == Version(wanted)


@pytest.mark.parametrize(("requirement", "count"), [("numpy", 0), ("numpy<3", 0), ("numpy>=2,>=2.1", 2)])
def test_bounds_that_name_no_release_are_refused(requirement: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"numpy.* has {count} lower bounds: write one, as NAME>=VERSION"):
        oldest(Requirement(requirement))


def test_names_are_compared_as_package_indexes_do() -> None:
    assert normalized("ONNX_graph.surgeon") == normalized("onnx--graph-surgeon") == "onnx-graph-surgeon"


def test_every_requirement_of_this_package_has_an_oldest_release() -> None:
    names = {normalized(each.name) for each in requirements(PROJECT) if oldest(each)}
    assert {"numpy", "scipy", "onnx", "onnxruntime", "onnx-graphsurgeon"} <= names
    assert "onnxruntime-gpu" not in names  # it must not be installed beside onnxruntime
    assert {"cpu"} <= set(EXTRAS)
    assert not names & set(TEST_TOOLS)


def test_pythons_are_those_of_the_classifiers(described: Path) -> None:
    assert pythons(described) == ("3.12",)
    assert pythons(PROJECT)[0] == "3.11"  # the lower bound, requires-python


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("newest", ["numpy>=2.0", "Pillow_Like!=1.5,>=1", "onnxruntime~=1.20"]),
        ("old-runtime", ["numpy>=2.0", "Pillow_Like!=1.5,>=1", "onnxruntime~=1.20", "onnxruntime==1.20"]),
    ],
)
def test_one_package_alone_may_be_the_oldest(described: Path, kind: str, wanted: list[str]) -> None:
    assert packages(described, kind, ("cpu",)) == wanted
    assert packages(described, kind, ("cpu",), ("numpy==2.1",)) == [*wanted, "numpy==2.1"]


@pytest.mark.parametrize("kind", KINDS)
def test_environments_of_this_package_are_described_by_valid_requirements(kind: str) -> None:
    lines = packages(PROJECT, kind, EXTRAS)
    names = [Requirement(line).name for line in lines]
    repeated = {name for name in names if names.count(name) > 1}
    assert repeated == {"old-runtime": {"onnxruntime"}, "old-onnx": {"onnx"}}.get(kind, set())


def test_tests_are_counted_from_what_pytest_writes(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("""
import pytest

@pytest.fixture
def broken():
    raise OSError("no file")

def test_right(): pass
def test_wrong(): assert 1 == 2
def test_broken(broken): pass
@pytest.mark.skip(reason="not today")
def test_left_out(): pass
def test_new(): raise ValueError("... Current official support for domain ai.onnx is till opset 21.")
@pytest.mark.nightly
def test_of_the_night(): assert False
""")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  nightly\n")
    counts = run_tests(Path(sys.executable), tmp_path, tmp_path, ["test_some.py"])
    assert counts == counted(tmp_path / "tests.xml")
    summary, *failed = str(counts).split("\n  ")
    assert summary == "1 passed, 2 failed, 1 skipped, 1 with models too new for this onnxruntime"
    assert failed == ["test_some::test_wrong", "test_some::test_broken"]


def test_what_does_not_run_is_not_counted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"did not run:\n(?s:.*)unrecognized arguments: --no-such-option"):
        run_tests(Path(sys.executable), tmp_path, tmp_path, ["--no-such-option"])
