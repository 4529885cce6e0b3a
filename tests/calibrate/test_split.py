from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnx_lowrank.calibrate import Samples, Split, default_batch, draw_samples, open_samples, preset, split_samples
from onnx_lowrank.calibrate.split import MAX_CALIBRATION_SAMPLES, MAX_HELD_OUT_SAMPLES, min_refined_samples
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.provider import Provider

FLOAT32 = np.dtype(np.float32)
OPEN = TensorSpec("x", FLOAT32, (None, 2))


def fixed(batch: int) -> TensorSpec:
    return TensorSpec("x", FLOAT32, (batch, 2))


def rows(count: int, spec: TensorSpec = OPEN) -> Samples:
    return open_samples(np.zeros((count, 2), np.float32), [spec], preset("raw"))


def split(
    count: int, spec: TensorSpec = OPEN, *, wanted: int | None = None, batch: int | None = None, seed: int = 0
) -> Split:
    return split_samples(rows(count, spec), [spec], np.random.default_rng(seed), wanted, batch)


@given(count=st.integers(2, 600), wanted=st.none() | st.integers(1, 300), seed=st.integers(0, 99))
def test_calibration_and_held_out_never_meet(count: int, wanted: int | None, seed: int) -> None:
    if wanted is not None and wanted >= count:
        wanted = count - 1
    found = split(count, wanted=wanted, seed=seed)
    assert not set(found.calibration) & set(found.held_out)
    both = np.concatenate([found.calibration, found.held_out])
    assert len(np.unique(both)) == len(both)
    assert both.min() >= 0
    assert both.max() < count
    assert len(found.calibration) == (
        wanted or min(MAX_CALIBRATION_SAMPLES, count - min(MAX_HELD_OUT_SAMPLES, max(1, count // 5)))
    )
    assert 1 <= len(found.held_out) <= MAX_HELD_OUT_SAMPLES
    assert (np.diff(found.held_out) > 0).all()


@given(
    count=st.integers(2, 600),
    wanted=st.none() | st.integers(1, 300),
    batch=st.none() | st.integers(1, 9),
    most=st.tuples(st.integers(1, 50), st.integers(1, 90)),
)
def test_samples_to_search_with_meet_no_others(
    count: int, wanted: int | None, batch: int | None, most: tuple[int, int]
) -> None:
    spec = OPEN if batch is None else fixed(batch)
    step = batch or 1
    try:
        found = split_samples(rows(count, spec), [spec], np.random.default_rng(0), wanted, None, *most)
    except CalibrationError:
        assert (wanted or step) < step or (wanted or step) + 2 * step > count - step
        return
    parts = [found.calibration, found.search, found.held_out]
    every = np.concatenate(parts)
    assert len(np.unique(every)) == len(every)
    assert all(len(part) and len(part) % step == 0 for part in parts)
    assert len(found.held_out) <= max(step, most[0])
    assert len(found.search) <= max(step, most[1])
    assert len(found.calibration) == (wanted // step * step if wanted else len(found.calibration))


def test_calibration_samples_are_the_same_with_a_search_or_more_to_verify_with() -> None:
    samples = rows(5_000)
    plain, more, search = (
        split_samples(samples, [OPEN], np.random.default_rng(0), wanted, None, *most)
        for wanted, most in ((None, ()), (None, (600,)), (None, (2_000, 4_000)))
    )
    for other in (more, search):
        np.testing.assert_array_equal(other.calibration, plain.calibration)
    assert (len(plain.held_out), len(more.held_out)) == (MAX_HELD_OUT_SAMPLES, 600)
    assert set(plain.held_out) <= set(more.held_out)
    assert (len(search.search), len(search.held_out)) == (2 * (5_000 - 256) // 3, 5_000 - 256 - 2 * (5_000 - 256) // 3)
    assert len(plain.search) == len(more.search) == 0


def test_too_few_samples_to_search_with() -> None:
    with pytest.raises(CalibrationError) as caught:
        split_samples(rows(31), [OPEN], np.random.default_rng(0), 30, None, 10, 10)
    assert str(caught.value) == (
        "data data (31 samples): 1 samples are left beside those to solve with, `max_drop` wants some to search with "
        "and others to verify with: add samples or lower `samples`"
    )


def test_a_stretch_of_the_calibration_samples_is_a_sample_of_all() -> None:
    calibration = split(1000, wanted=500).calibration
    # Were they in order, the last fifth would come from the last fifth of the data, one class of a sorted folder.
    assert np.ptp(calibration[-100:]) > 900
    assert abs(calibration[-100:].mean() - 500) < 100


def test_depends_on_the_seed_and_nothing_else() -> None:
    first, again, other = split(50, seed=1), split(50, seed=1, batch=3), split(50, seed=2)
    np.testing.assert_array_equal(first.calibration, again.calibration)
    assert not np.array_equal(first.calibration, other.calibration)


def test_without_samples_to_spare_the_calibration_samples_verify(caplog: pytest.LogCaptureFixture) -> None:
    found = split(4, wanted=4)
    np.testing.assert_array_equal(found.held_out, np.sort(found.calibration))
    assert "no samples left to verify with" in caplog.text
    assert len(split(1).held_out) == 1


def test_fewer_samples_than_wanted() -> None:
    with pytest.raises(
        CalibrationError, match=r"data .* \(5 samples\): 5 usable samples, wanted 8: add samples or lower"
    ):
        split(5, wanted=8)


# Fixed batches


@given(batch=st.integers(1, 9), batches=st.integers(2, 40), odd=st.integers(0, 8), seed=st.integers(0, 9))
def test_fixed_batches_are_filled_and_kept_apart(batch: int, batches: int, odd: int, seed: int) -> None:
    count = batch * batches + min(odd, batch - 1)
    found = split(count, fixed(batch), seed=seed, batch=100)
    assert found.batch_size == batch
    for part in (found.calibration, found.held_out):
        assert len(part)
        assert len(part) % batch == 0
    assert not set(found.calibration) & set(found.held_out)


def test_exactly_one_fixed_batch_is_enough() -> None:
    found = split(4, fixed(4))
    assert sorted(found.calibration) == found.held_out.tolist() == [0, 1, 2, 3]


def test_fewer_samples_than_a_fixed_batch() -> None:
    with pytest.raises(CalibrationError, match="3 usable samples, the model takes batches of 4: add samples"):
        split(3, fixed(4))


def test_fewer_samples_wanted_than_a_fixed_batch() -> None:
    with pytest.raises(CalibrationError, match=r"3 samples wanted, the model takes batches of 4: raise `samples`"):
        split(100, fixed(4), wanted=3)


# Batch size


def test_batch_size_goes_by_the_size_of_a_sample() -> None:
    def chosen(shape: tuple[int | None, ...], batch: int | None = None) -> int:
        spec = TensorSpec("x", FLOAT32, shape)
        data = np.zeros((3, *(size or 1 for size in shape[1:])), np.float32)
        samples = open_samples(data, [spec], preset("raw"))
        return split_samples(samples, [spec], np.random.default_rng(0), None, batch).batch_size

    assert chosen((None, 3, 224, 224)) == 2
    assert chosen((None, 3, 100, 100)) == 13
    assert chosen((None, 3, 32, 32)) == 64
    assert chosen((None, 3, 2000, 2000)) == 1
    assert chosen((None, 3, 224, 224), batch=5) == 5
    assert chosen((2, 3, 32, 32), batch=5) == 2


def test_batches_of_a_gpu_are_larger() -> None:
    def batch(size: int) -> int:
        return default_batch([TensorSpec("x", FLOAT32, (None, 3, size, size))], Provider("cuda").batch_elements)

    assert [batch(size) for size in (32, 224, 2000)] == [640, 26, 1]
    assert Provider("tensorrt").batch_elements == Provider("cuda").batch_elements


def test_images_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    for number in range(30):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
        broken = number % 3 == 0
        (tmp_path / f"{number:02}.png").write_bytes(b"broken" if broken else buffer.getvalue())
    spec = TensorSpec("x", FLOAT32, (None, 3, 4, 4))
    samples = open_samples(tmp_path, [spec], preset("zero-one"))
    found = split_samples(samples, [spec], np.random.default_rng(0), 15, None)
    both = np.concatenate([found.calibration, found.held_out])
    assert sorted(both) == [number for number in range(30) if number % 3]
    assert len(found.calibration) == 15
    chosen = split_samples(samples, [spec], np.random.default_rng(0), None, None)
    assert (len(chosen.calibration), len(chosen.held_out)) == (16, 4)
    with pytest.raises(CalibrationError, match="20 usable samples, wanted 21"):
        split_samples(samples, [spec], np.random.default_rng(0), 21, None)


@given(batch=st.integers(2, 9), blocks=st.integers(3, 40), rest=st.integers(0, 8), seed=st.integers(0, 99))
def test_samples_of_a_fixed_batch_stay_together(batch: int, blocks: int, rest: int, seed: int) -> None:
    spec, count = fixed(batch), batch * blocks + min(rest, batch - 1)
    found = split(count, spec, seed=seed)
    drawn, _ = draw_samples(rows(count, spec), [spec], np.random.default_rng(seed), None, None)
    for indices in (found.calibration, found.held_out, drawn):
        by_batch = indices.reshape(-1, batch)
        assert (by_batch[:, 0] % batch == 0).all()
        np.testing.assert_array_equal(by_batch, by_batch[:, :1] + np.arange(batch))
    assert not set(found.calibration) & set(found.held_out)
    assert sorted(drawn) == list(range(batch * blocks))


def test_batches_are_drawn_in_random_order() -> None:
    first = split(80, fixed(4), wanted=40).calibration[::4]
    assert len(set(first)) == 10
    assert (np.diff(first) < 0).any()


@pytest.mark.parametrize(("step", "samples"), [(1, 200), (3, 210), (16, 320)])
def test_blocks_are_refined_from_two_hundred_samples_on(step: int, samples: int) -> None:
    assert min_refined_samples(step) == samples
    calibration = np.arange(samples)
    assert len(Split(calibration, calibration, 8).with_refinement(step).refinement) == samples // 10
    assert len(Split(calibration[:-1], calibration, 8).with_refinement(step).refinement) == 0
