"""Rows in a file, beside the same array in memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.linalg.disk_arrays import ScratchFile, SpilledRows

slices = st.builds(slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9))


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.sampled_from([np.float32, np.float16, np.int64]),
    st.integers(1, 3),
    slices,
    slices,
)
def test_stretches_of_rows_and_channels_are_those_of_the_array(
    shape: list[int], dtype: type, parts: int, rows: slice, channels: slice
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    file = ScratchFile()
    for part in np.array_split(array, parts):
        file.append(part)
    spilled = SpilledRows(file, array.shape, array.dtype)
    assert len(spilled) == len(array)
    np.testing.assert_array_equal(spilled[rows], array[rows])
    some = spilled.of(channels)
    assert some.shape == array[:, channels].shape
    np.testing.assert_array_equal(some[rows], array[rows, channels])
    file.close()
