from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from onnx_lowrank.errors import OutputError
from onnx_lowrank.graph import check_writable, set_metadata, staged
from tests.helpers import build, normal

as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def model() -> onnx.ModelProto:
    return build("g (float[2] x) => (float[2] y) { y = Add(x, w) }", {"w": normal(0, 2)})


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_is_there_once_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    with staged(model(), path) as file:
        assert file.parent.parent == tmp_path
        assert not path.exists()
        assert onnx.load(file) == model()
    assert onnx.load(path) == model()
    assert content(tmp_path) == ["out.onnx"]


def test_the_file_has_ordinary_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with staged(model(), tmp_path / "out.onnx"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.onnx").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_and_nothing_changed_when_the_block_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    with pytest.raises(error), staged(model(), path):
        raise error
    assert path.read_bytes() == b"old"
    assert content(tmp_path) == ["out.onnx"]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    with staged(model(), path):
        assert path.read_bytes() == b"old"
    assert onnx.load(path) == model()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 64 bytes inside the block: what a full disk does to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk(tmp_path: Path) -> None:
    with (
        full_disk(),
        pytest.raises(OutputError, match=r"out\.onnx: cannot be written \(File too large\): free some space or"),
    ):
        with staged(model(), tmp_path / "out.onnx"):
            pytest.fail("the block must not run")
    assert content(tmp_path) == []


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/out\.onnx: cannot be written \(No such file or directory\)"):
        with staged(model(), tmp_path / "nowhere" / "out.onnx"):
            pytest.fail("the block must not run")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").mkdir()
    with pytest.raises(
        OutputError, match=r"out\.onnx: cannot be written, as it has become a folder meanwhile: remove it or"
    ):
        with staged(model(), tmp_path / "out.onnx"):
            pass
    assert content(tmp_path) == ["out.onnx"]


@as_root
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"):
        with staged(model(), tmp_path / "out.onnx"):
            pytest.fail("the block must not run")


# Checks before a long conversion


@pytest.mark.parametrize("force", [True, False])
def test_devices_and_pipes_are_refused(tmp_path: Path, force: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(OutputError, match="is a device or a pipe, which renaming would replace: choose"):
            check_writable(path, force=force)


def test_names_that_are_too_long_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written .File name too long."):
        check_writable(tmp_path / ("x" * 300), force=False)


def test_a_free_place_is_fine_and_nothing_is_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "out.onnx", force=False)
    assert content(tmp_path) == []


def test_a_name_without_a_folder_is_in_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable(Path("out.onnx"), force=False)
    with staged(model(), Path("out.onnx")):
        pass
    assert content(tmp_path) == ["out.onnx"]


def test_an_existing_file_is_refused_without_force(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").touch()
    with pytest.raises(OutputError, match=r"out\.onnx: exists already: .* overwrite it with `force`"):
        check_writable(tmp_path / "out.onnx", force=False)
    check_writable(tmp_path / "out.onnx", force=True)


@pytest.mark.parametrize("force", [True, False])
def test_folders_and_missing_folders_are_refused(tmp_path: Path, force: bool) -> None:
    with pytest.raises(OutputError, match="is a folder, wanted a file name"):
        check_writable(tmp_path, force=force)
    with pytest.raises(OutputError, match=r"folder '.*nowhere' does not exist: make it first"):
        check_writable(tmp_path / "nowhere" / "out.onnx", force=force)


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    with pytest.raises(OutputError, match=r"folder '.*' is not writable"):
        check_writable(tmp_path / "out.onnx", force=False)


def test_metadata_is_set_and_the_rest_of_it_stays() -> None:
    marked = model()
    marked.metadata_props.add(key="author", value="me")
    marked.metadata_props.add(key="version", value="1")
    set_metadata(marked, {"version": "2", "seed": "0"})
    found = [(each.key, each.value) for each in marked.metadata_props]
    assert found == [("author", "me"), ("version", "2"), ("seed", "0")]
