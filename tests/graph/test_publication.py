"""Files that become final together: under unique names, with nothing lost when one fails, and after kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_lowrank import convert, interruption
from onnx_lowrank.errors import OutputError
from onnx_lowrank.graph import Publication, add_texts, check_writable, publication, staged, write_texts
from tests.networks import images, network


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_become_final_together(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")
    with Publication() as together:
        add_texts({tmp_path / "a": "1", tmp_path / "b": "2"}, together)
        assert (tmp_path / "b").read_text() == "old"
        assert not (tmp_path / "a").exists()
    assert content(tmp_path) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("error", [PermissionError(1, "Operation not permitted"), KeyboardInterrupt()])
def test_what_was_there_comes_back_where_the_last_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, has_links: bool
) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "last").write_text("old too")
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == tmp_path / "last" and self.name == "last":
            raise error
        return replace(self, target)

    def without_links(self: Path, target: Path) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(Path, "replace", refuse)
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", without_links)
    with pytest.raises((OutputError, KeyboardInterrupt)), Publication() as together:
        add_texts({tmp_path / name: "new" for name in ("old", "none", "last")}, together)
    assert content(tmp_path) == {"old": "old", "last": "old too"}


def test_a_block_that_fails_leaves_its_own_files_out_alone(tmp_path: Path) -> None:
    with Publication() as together:
        add_texts({tmp_path / "a": "1"}, together)
        with pytest.raises(OutputError, match="nowhere/c: cannot be written"), together.left_out_on_error():
            add_texts({tmp_path / "b": "2", tmp_path / "nowhere" / "c": "3"}, together)
    assert content(tmp_path) == {"a": "1"}


@pytest.mark.parametrize("is_result", [True, False])
def test_what_somebody_asked_for_is_named_after_an_interruption(tmp_path: Path, is_result: bool) -> None:
    interruption.begin()
    with Publication(is_result=is_result) as together:
        add_texts({tmp_path / "a": "1"}, together)
    assert interruption.anything_written() == is_result
    named = f"complete and written before that: {tmp_path / 'a'}" if is_result else "nothing was written"
    assert interruption.message(signal.SIGINT) == f"interrupted: {named}"
    interruption.begin()
    assert not interruption.anything_written()


def test_a_model_whose_place_becomes_a_folder_brings_no_report(tmp_path: Path) -> None:
    together = Publication()
    add_texts({tmp_path / "r.json": "{}", tmp_path / "out.onnx": "model"}, together)
    (tmp_path / "out.onnx").mkdir()
    with pytest.raises(OutputError, match=r"out\.onnx: cannot be written, as it has become a folder meanwhile: remove"):
        with together:
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


# Links


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("there", "missing"):
        link, file = tmp_path / f"{name}.onnx", tmp_path / "models" / f"{name}-v1.onnx"
        if name == "there":
            file.write_bytes(b"old")
        link.symlink_to(file)
        check_writable(link, force=True)
        with staged(network(), link):
            assert link.exists() == (name == "there")
        assert link.is_symlink()
        assert not file.is_symlink()
        assert onnx.load(file) == network()
        assert onnx.load(link) == network()
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["missing-v1.onnx", "there-v1.onnx"]


def test_a_link_to_a_file_is_refused_without_force(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OutputError, match="link: exists already: .* overwrite it with `force`"):
        check_writable(tmp_path / "link", force=False)


def test_a_link_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "file")
    with pytest.raises(OutputError, match="link: folder '.*nowhere' does not exist: make it first"):
        check_writable(tmp_path / "link", force=False)


def test_a_link_to_the_model_that_is_read_is_refused(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "in.onnx")
    (tmp_path / "link.onnx").symlink_to("in.onnx")
    with pytest.raises(OutputError, match=r"link\.onnx: is the model that is read, which is never written: choose"):
        convert(tmp_path / "in.onnx", {"x": images()}, output=tmp_path / "link.onnx")
    assert onnx.load(tmp_path / "in.onnx") == network()


# Several processes


WRITERS = """
import sys
from pathlib import Path
from onnx_lowrank.graph import write_texts
for number in range(int(sys.argv[2])):
    write_texts({Path(sys.argv[1]): f"{number % 10}" * 20_000})
"""


def test_two_processes_may_write_the_same_file(tmp_path: Path) -> None:
    """A reader finds a whole file at any time, and neither of them an error."""
    path = tmp_path / "latency.json"
    write_texts({path: "0" * 20_000})
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITERS, str(path), "300"], stderr=subprocess.PIPE) for _ in range(2)
    ]
    torn = reads = 0
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        torn += len(text) != 20_000 or len(set(text)) != 1
        reads += 1
    assert [(writer.returncode, writer.communicate()[1]) for writer in writers] == [(0, b"")] * 2
    assert reads > 100
    assert torn == 0
    assert [each.name for each in tmp_path.iterdir()] == ["latency.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from onnx_lowrank.graph import Publication
with Publication() as publication:
    publication.add(Path(sys.argv[1])).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path) -> Path:
    """What a process leaves that is killed while it writes."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = [each for each in path.parent.iterdir() if each.name.startswith(".onnx-lowrank-")]
    return left


def test_what_a_killed_process_left_goes_away_with_the_next_one(tmp_path: Path) -> None:
    assert killed(tmp_path / "a").is_dir()
    write_texts({tmp_path / "b": "text"})
    assert content(tmp_path) == {"b": "text"}


@pytest.mark.parametrize(
    ("part", "value"), [("scope", "0123456789ab"), ("pid", str(os.getppid())), ("suffix", ".other"), ("prefix", "x")]
)
def test_what_may_be_in_use_or_is_not_ours_stays(tmp_path: Path, part: str, value: str) -> None:
    """That of another machine or container, of a process that lives, and what only looks alike."""
    left = killed(tmp_path / "a")
    start = publication._start(os.getppid())
    *ours, scope, pid, began, rest = left.name.split("-", 5)
    assert ours == [".onnx", "lowrank"]
    if part == "scope":
        scope = value
    elif part == "pid":
        pid, began = value, str(start)
    name = f".onnx-lowrank-{scope}-{pid}-{began}-{rest}"
    name = name + value if part == "suffix" else value + name if part == "prefix" else name
    renamed = left.rename(tmp_path / name)
    write_texts({tmp_path / "b": "text"})
    assert (renamed / "a").read_text() == "half"


def test_a_number_that_another_process_has_by_now_is_no_hindrance(tmp_path: Path) -> None:
    left = killed(tmp_path / "a")
    own = left.name.split("-")
    own[3:5] = [str(os.getppid()), "1"]  # it did not start with the machine
    left.rename(tmp_path / "-".join(own))
    write_texts({tmp_path / "b": "text"})
    assert content(tmp_path) == {"b": "text"}


def test_nothing_is_removed_where_processes_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed(tmp_path / "a")
    renamed = left.rename(tmp_path / left.name.replace(left.name.split("-")[2], "0"))
    monkeypatch.setattr(publication, "_scope", lambda: "0")
    write_texts({tmp_path / "b": "text"})
    assert renamed.is_dir()


def test_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(number: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{number}').readlink().name}")
        fsync(number)

    def noted_replace(self: Path, target: Any) -> Path:
        done.append(f"rename {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    with Publication() as together:
        add_texts({tmp_path / "a": "1", tmp_path / "b": "2"}, together)
    assert done == ["flush a", "flush b", "rename a", "rename b"]
