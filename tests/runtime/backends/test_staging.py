"""Folders for what converters write."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_lowrank import interruption
from onnx_lowrank.errors import OutputError
from onnx_lowrank.runtime.backends.staging import keep_only, staging_folder, subfolder


def test_it_vanishes_with_what_is_in_it() -> None:
    with staging_folder() as folder:
        (subfolder(folder, "0") / "file").write_text("x")
        assert folder.is_dir()
    assert not folder.exists()


def test_it_vanishes_where_the_block_fails_and_where_the_process_is_ended_by_force() -> None:
    with pytest.raises(ValueError, match="reason"):
        with staging_folder() as folder:
            raise ValueError("reason")
    assert not folder.exists()
    with staging_folder() as folder:
        for clean in interruption._state.cleanups.copy():
            clean()
        assert not folder.exists()


def test_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match="none: cannot be written .*: free some space or choose another place"):
        with staging_folder():
            pass


def test_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    for name in ("model.onnx", "net.bin"):
        (tmp_path / name).write_text("x")
    (tmp_path / "saved/variables").mkdir(parents=True)
    (tmp_path / "saved/variables/data").write_text("x")
    keep_only(tmp_path, {"net.bin", "not there"})
    assert [path.name for path in tmp_path.iterdir()] == ["net.bin"]
