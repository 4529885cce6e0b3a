from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank.linalg.array_file import ArrayFile


def test_arrays_from_any_offset_on_any_thread(tmp_path: Path) -> None:
    numbers = np.arange(40_000, dtype=np.int32).reshape(-1, 4)
    numbers.tofile(tmp_path / "x")
    with (tmp_path / "x").open("rb") as stream, ThreadPoolExecutor(4) as pool:
        file = ArrayFile(stream)
        rows = list(pool.map(lambda row: file.read(16 * row, np.dtype(np.int32), (1, 4)), range(10_000)))
    np.testing.assert_array_equal(np.concatenate(rows), numbers)


def test_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with (tmp_path / "x").open("rb") as stream:
        assert ArrayFile(stream).read(0, np.dtype(np.float32), (0, 3)).shape == (0, 3)


def test_a_file_that_ends_before_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10))
    with (tmp_path / "x").open("rb") as stream, pytest.raises(EOFError, match="ends after 10 bytes, 12 are wanted"):
        ArrayFile(stream).read(4, np.dtype(np.float32), (2,))
