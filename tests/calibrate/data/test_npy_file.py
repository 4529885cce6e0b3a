"""Arrays in files, against what NumPy reads from them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank.calibrate.data.npy_file import NpyFile
from onnx_lowrank.errors import CalibrationError
from tests.helpers import normal


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "<f2", "?"])
@pytest.mark.parametrize("shape", [(7, 3, 2), (7,), (1, 5), (0, 4)])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_rows_are_those_of_numpy(
    tmp_path: Path, order: str, dtype: str, shape: tuple[int, ...], version: tuple[int, int]
) -> None:
    array = np.asarray(100 * normal(0, *shape)).astype(dtype, order=order)
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array(stream, array, version)
    file = NpyFile(tmp_path / "x.npy")
    assert (file.shape, file.dtype, file.ndim, len(file)) == (array.shape, array.dtype, array.ndim, len(array))
    np.testing.assert_array_equal(file.whole(), array)
    for rows in (slice(None), slice(0, 2), slice(2, 100), np.arange(len(array))[::-2], np.array([], dtype=np.int64)):
        np.testing.assert_array_equal(file[rows], array[rows])
        assert file[rows].dtype == array.dtype
    with pytest.raises(IndexError):
        file[np.array([len(array)])]


def test_python_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="it holds Python objects, numbers are wanted"):
        NpyFile(tmp_path / "x.npy")


def test_a_file_that_is_still_being_written_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(0, 10, 10))
    os.truncate(tmp_path / "x.npy", 300)
    with pytest.raises(EOFError, match="it has 300 bytes, 528 are wanted"):
        NpyFile(tmp_path / "x.npy")


def test_a_file_that_is_cut_after_it_was_opened_is_an_error(tmp_path: Path) -> None:
    array = normal(0, 10, 10)
    np.save(tmp_path / "x.npy", array)
    file = NpyFile(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 128 + 5 * 40)
    np.testing.assert_array_equal(file[:5], array[:5])
    for read in (lambda: file[np.array([2, 5])], file.whole):
        with pytest.raises(
            CalibrationError, match=r"x\.npy: cannot be read any more \(ends after 328 bytes, \d+ are wa"
        ):
            read()


def test_a_file_that_is_replaced_is_read_as_it_was(tmp_path: Path) -> None:
    array = normal(0, 10, 10)
    np.save(tmp_path / "x.npy", array)
    file = NpyFile(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", array[:1])
    (tmp_path / "y.npy").replace(tmp_path / "x.npy")
    np.testing.assert_array_equal(file[np.array([9])], array[9:])
