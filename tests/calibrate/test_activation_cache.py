"""Tensors in memory and on the disk, beside a dictionary that simply keeps them all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank import convert
from onnx_lowrank.calibrate.activation_cache import ActivationCache
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.ort_values import Resident
from tests.networks import images, network

Array = NDArray[Any]
NAMES = ("a", "b", "c")
TYPES = (np.float32, np.float16, np.int64, np.bool_)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    """Of any type and shape, some of them not in one piece, some empty."""
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape) * 9
    array = np.asarray(values).astype(draw(st.sampled_from(TYPES)))
    return array.T if draw(st.booleans()) else array


@settings(deadline=None)
@given(st.data(), st.integers(0, 400))
def test_what_is_read_is_what_was_put_wherever_it_lies(data: st.DataObject, max_memory_bytes: int) -> None:
    batch = st.dictionaries(st.sampled_from(NAMES), tensors(), min_size=1)
    wanted: list[dict[str, Array]] = [data.draw(batch) for _ in range(data.draw(st.integers(1, 3)))]
    before = open_files()
    with closing(ActivationCache(wanted, max_memory_bytes)) as cache:
        for _ in range(data.draw(st.integers(0, 3))):
            keep = data.draw(st.sets(st.sampled_from(NAMES)))
            for number in range(len(cache)):
                found = {name: tensor for name, tensor in data.draw(batch).items() if name not in keep}
                cache.advance(number, keep, found)
                wanted[number] = {name: each for name, each in wanted[number].items() if name in keep} | found
        in_memory = 0
        for number, expected in enumerate(wanted):
            for name, tensor in cache.read(number, expected).items():
                np.testing.assert_array_equal(tensor, expected[name])
                assert tensor.dtype == expected[name].dtype
                assert tensor.shape == expected[name].shape
                in_memory += tensor.nbytes * (tensor is expected[name])
        assert in_memory <= max_memory_bytes
        assert cache.types == {name: tensor.dtype for name, tensor in wanted[0].items()}
    assert open_files() == before


def test_room_that_gets_free_is_taken_again() -> None:
    block = np.zeros(100, np.uint8)
    cache = ActivationCache([{"a": block}, {"a": block}], 100)
    assert cache.spilled_bytes == 100
    cache.advance(0, (), {"b": block})  # in the place of the first
    assert cache.spilled_bytes == 100
    cache.advance(1, (), {"b": block})
    assert cache.spilled_bytes == 200
    cache.close()


def test_room_can_be_reserved_for_something_else() -> None:
    block = np.zeros(100, np.uint8)
    cache = ActivationCache([{"a": block}], 250)
    assert not cache.reserve(151)
    assert cache.reserve(150)
    cache.advance(0, {"a"}, {"b": block})
    assert cache.spilled_bytes == 100
    cache.release(150)
    cache.advance(0, {"a"}, {"c": block})
    assert cache.spilled_bytes == 100
    cache.close()


def test_what_would_go_to_the_disk_is_known_before() -> None:
    block = np.zeros(100, np.uint8)
    cache = ActivationCache([{"a": block, "b": block}, {"a": block, "b": block}], 300)  # one of the four is on the disk
    assert cache.spill_bytes({"a", "b"}, 0) == 0
    assert cache.spill_bytes({"a", "b"}, 70) == 70
    assert cache.spill_bytes({"b"}, 200) == 0
    assert cache.spill_bytes({"b"}, 250) == 50
    assert cache.spill_bytes((), 310) == 10
    assert cache.growth_bytes({"a", "b"}, 70) == 70
    assert cache.growth_bytes({"b"}, 70) == 70 - 200
    cache.close()


def resident(array: Array) -> Resident:
    return Resident(onnxruntime.OrtValue.ortvalue_from_numpy(array))


def test_tensors_stay_where_they_are_as_long_as_there_is_room() -> None:
    """Then they come to memory, and from there to the disk."""
    blocks = [np.full(25, number, np.float32) for number in range(4)]
    cache = ActivationCache([{"a": resident(block)} for block in blocks], 100, 200)
    kinds = [cache.read(number, "a")["a"] for number in range(4)]
    assert [isinstance(each, Resident) for each in kinds] == [True, True, False, False]
    assert cache.spilled_bytes == 100
    for block, found in zip(blocks, kinds, strict=True):
        np.testing.assert_array_equal(found.numpy() if isinstance(found, Resident) else found, block)
    assert cache.types == {"a": np.float32}
    assert cache.spill_bytes({"a"}, 0) == 0
    assert cache.spill_bytes((), 330) == 330 - 100  # those that are resident are still there while others come
    cache.advance(0, (), {"b": resident(blocks[0])})  # in the place of the first
    cache.advance(1, (), {"b": blocks[0]})  # which is in memory, where there is no room
    assert cache.spilled_bytes == 200
    cache.advance(2, (), {"b": resident(blocks[0])})
    assert isinstance(cache.read(2, "b")["b"], Resident)
    cache.close()


def test_a_file_is_gone_with_the_last_tensor_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = open_files()
    cache = ActivationCache([{"a": np.zeros(9)}, {"a": np.zeros(9)}], 0)
    # Without a name it is gone even where the process is killed.
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before + 1
    cache.advance(0, (), {})
    assert open_files() == before + 1
    cache.advance(1, (), {})
    assert open_files() == before
    assert cache.spilled_bytes == 2 * 72


class Full:
    """A temporary file on a full disk."""

    def seek(self, *_: int) -> int:
        return 0

    def write(self, _: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        pass


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("onnx_lowrank.linalg.disk_arrays.tempfile.TemporaryFile", Full)
    return


def test_a_full_disk_is_an_error_in_words(full_disk: None) -> None:
    wanted = r"temporary folder '.*': .* cannot be kept there \(No space left on device\): free some space, .* `memory`"
    with pytest.raises(CalibrationError, match=wanted):
        ActivationCache([{"a": np.zeros(9)}], 0)
    with pytest.raises(CalibrationError, match=wanted):
        convert(network(), images(40), memory=0, bench=False)


def test_the_result_is_the_same_with_less_memory() -> None:
    settings: dict[str, Any] = {"speedup": 2, "batch_size": 8, "bench": False}
    before = open_files()
    all_in_memory = convert(network(), images(40), **settings).model
    for memory in (0, 1.5e-3):
        assert convert(network(), images(40), memory=memory, **settings).model == all_in_memory
        assert open_files() <= before


@pytest.mark.parametrize("memory", [-1, float("nan"), float("inf")])
def test_no_amount_of_memory(memory: float) -> None:
    with pytest.raises(ValueError, match="memory must be a number of gigabytes, got"):
        convert(network(), images(40), memory=memory)
