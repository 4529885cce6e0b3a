"""The documentation: its commands run as they stand there, its pages build without a complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

import docs_reference
import onnx_lowrank
from onnx_lowrank.cli import program
from onnx_lowrank.cli.messages import flags, with_flags
from tests.command_line import works
from tests.users_folder import fill_folder

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "tools/docs").glob("*.md"))
_BLOCK = re.compile(r"<!-- run -->\n```(\w*)\n(.*?)```", re.DOTALL)
_FILE = re.compile(r"<!-- file (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)
ELSEWHERE = {"deploying"}  # tests/test_deployment.py runs these
NIGHTLY = {"measure"}  # a search and a sweep; tests/cli/test_metric.py has quicker ones


def blocks(page: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


README = blocks(ROOT / "README.md")  # tests/test_readme.py runs these
RUN = [page for page in PAGES if set(blocks(page)) - set(README) and page.stem not in ELSEWHERE]


@pytest.fixture(scope="module")
def filled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_folder(tmp_path_factory.mktemp("docs"), step=100)


@pytest.fixture
def folder(filled_folder: Path, tmp_path: Path) -> Path:
    """A copy for each page, since pages write files of the same names."""
    return shutil.copytree(filled_folder, tmp_path, dirs_exist_ok=True)


def test_there_is_something_to_run() -> None:
    assert {page.stem for page in RUN} >= {"tutorial", "choosing", "plans", "finetuning", "measure"}
    assert set(blocks(ROOT / "tools/docs/python.md")) <= set(README)
    assert blocks(ROOT / "tools/docs/python.md")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.nightly] if page.stem in NIGHTLY else [], id=page.stem) for page in RUN],
)
def test_commands_and_code(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All run in this process, which imports everything once; README's have processes of their own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a metric's folder is added to it
    for name, text in _FILE.findall(page.read_text(encoding="utf-8")):
        Path(name).write_text(text, encoding="utf-8")
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), {"__name__": "__main__"})
            continue
        for line in text.strip().splitlines():
            words = line.split("#")[0].split()
            assert words[0] == "onnx-lowrank"
            assert works(*words[1:]).stdout


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", docs_reference.PAGES)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    pytest.importorskip("torch")  # the API has a part that needs it
    page = (ROOT / "tools/docs" / name).read_text(encoding="utf-8")
    assert page == docs_reference.filled(page), "run python tools/docs_reference.py"


def test_the_reference_has_all_commands_and_public_names() -> None:
    commands, python = ((ROOT / "tools/docs" / name).read_text(encoding="utf-8") for name in docs_reference.PAGES)
    for name in ("", *program.commands):
        usage = f"Usage: onnx-lowrank {name}".rstrip()
        assert f"```text\n{usage} [OPTIONS]" in commands
    headings = set(re.findall(r"^### (\w+)$", python, re.MULTILINE))
    names = {name for name in onnx_lowrank.__all__ if not name.endswith("Error") and name != "__version__"}
    assert names <= headings
    assert all(f" {name} " in python for name in onnx_lowrank.__all__ if name.endswith("Error"))
    assert ":::" not in commands + python


def test_docstrings_become_lists() -> None:
    text = docs_reference.reference("onnx_lowrank.ranks.search.largest_speedup")
    assert (
        "### largest_speedup\n\n```python\nlargest_speedup(attempt: Attempt[ConvertedT, LossT], allowed: float)" in text
    )
    assert "\n**Args**\n\n- `attempt`: converts at a speedup and judges the result.\n- `allowed`: largest loss" in text
    assert "\n**Raises**\n\n- `BudgetError`: not even `MIN_SPEEDUP` holds.\n" in text


def test_errors_are_quoted_as_they_are() -> None:
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "onnx_lowrank").rglob("*.py"))
    code = with_flags(code, flags(click.Context(program)))  # as the command line shows them
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "tools/docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 10
    for quoted in re.findall(r"`([^`]+)`", " ".join(rows)):
        for part in re.split(r"\s*\.\.\.\s*", quoted):  # dots stand for what differs
            assert part in code, quoted


def test_every_page_is_in_the_contents() -> None:
    contents = yaml.safe_load((ROOT / "tools/mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(name for entry in contents["nav"] for name in entry.values()) == [page.name for page in PAGES]


@pytest.mark.slow
def test_the_site_builds_and_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", ROOT / "tools/mkdocs.yml", "-d", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {page.stem for page in pages} >= {page.stem for page in PAGES}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(https?:[^\"]+)|<link[^>]+href=\"(https?:[^\"]+)", text)
        assert loaded == [], page.name
        assert "::: " not in text
