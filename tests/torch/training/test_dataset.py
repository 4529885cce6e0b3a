"""Samples are divided, put in order, shared out among processes and read."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.calibrate import Samples, open_samples, preset
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch.training.augment import augment_images
from onnx_lowrank.torch.training.dataset import MAX_HELD_OUT, Batch, DistillationData, Shard, split
from tests.torch.pairs import save_classes

Array = NDArray[Any]
SINGLE = np.dtype(np.float32)
ZERO_ONE = preset("zero-one")


def numbered(count: int) -> Samples:
    """Samples that are their own number."""
    array = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    return open_samples({"x": array}, [TensorSpec("x", SINGLE, (None, 1, 1, 1))], ZERO_ONE)


def divided(data: Samples, /, shard: Shard | None = None, fixed: int | None = None, **changes: Any) -> DistillationData:
    return split(data, tuple(data.sources), FinetuneSettings(**changes), shard or Shard(), fixed)


def numbers(batches: Iterator[Batch]) -> list[list[int]]:
    """Which samples batches of `numbered` ones hold."""
    return [[int(value) for value in batch.inputs[0].flatten()] for batch in batches]


# Division


@settings(deadline=None, max_examples=150)
@given(st.integers(4, 300), st.floats(0.01, 0.6), st.integers(1, 40), st.integers(1, 4), st.sampled_from([None, 1, 3]))
def test_samples_are_parted(count: int, held_out: float, batch_size: int, processes: int, fixed: int | None) -> None:
    """Each is on one side; batches can be shared out evenly; or it is said that there are too few."""
    step = processes * (fixed or 1)
    shards = [Shard(rank, processes) for rank in range(processes)]
    options: dict[str, Any] = {"held_out": held_out, "batch_size": batch_size, "fixed": fixed}
    needed = max(2, step, round(held_out * count)) + step
    if needed > count:
        with pytest.raises(CalibrationError, match=f"{count} samples, {needed} wanted to train on and choose by: add"):
            divided(numbered(count), shards[0], **options)
        return
    each = [divided(numbered(count), shard, **options) for shard in shards]
    for dataset in each:
        assert sorted([*dataset.training, *dataset.held_out]) == list(range(count))
        assert min(len(dataset.training), len(dataset.held_out)) >= step
        np.testing.assert_array_equal(dataset.training, each[0].training)  # the same in every process
        np.testing.assert_array_equal(dataset.held_out, each[0].held_out)
        assert dataset.batch_size == (step if fixed else max(step, batch_size // step * step))
    expected = max(2, step, round(held_out * count))
    assert len(each[0].held_out) == (expected // step * step if fixed else expected)
    if fixed:
        assert len(each[0].held_out) % step == 0  # a rest would not go through the model


def test_no_more_are_held_out_than_are_of_use() -> None:
    dataset = divided(numbered(9000), held_out=0.5)
    assert (len(dataset.held_out), len(dataset.training)) == (MAX_HELD_OUT, 9000 - MAX_HELD_OUT)


@pytest.mark.parametrize(("samples", "batch"), [(40, 16), (300, 18), (1000, 62), (2048, 128), (50_000, 128)])
def test_few_samples_still_make_some_steps(samples: int, batch: int) -> None:
    dataset = divided(numbered(samples))
    assert dataset.batch_size == batch
    assert dataset.steps >= min(14, len(dataset.training) // 16)
    assert divided(numbered(samples), batch_size=32).batch_size == 32


def test_the_division_goes_by_the_seed() -> None:
    one, same, other = (divided(numbered(60), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.held_out, same.held_out)
    np.testing.assert_array_equal(one.training, same.training)
    assert set(one.held_out) != set(other.held_out)
    assert one.held_out.tolist() != sorted(one.held_out)  # data may be sorted by class


def test_a_number_of_samples_is_drawn_from_all() -> None:
    dataset = divided(numbered(100), samples=20)
    used = {*dataset.training, *dataset.held_out}
    assert (len(dataset.training), len(dataset.held_out)) == (18, 2)
    assert len(used) == 20
    assert max(used) > 30


@pytest.mark.parametrize(("fixed", "processes"), [(None, 1), (None, 3), (4, 1)])
def test_other_samples_may_judge(fixed: int | None, processes: int) -> None:
    """Then all of the data are trained on; of the others as many judge as are of use."""
    validation = replace(numbered(30), labels=np.arange(30))
    names = tuple(validation.sources)
    dataset = split(numbered(50), names, FinetuneSettings(batch_size=8), Shard(0, processes), fixed, validation)
    assert sorted(dataset.training) == list(range(50))
    assert sorted(dataset.held_out) == (list(range(30)) if not fixed else sorted(dataset.held_out))
    assert len(set(dataset.held_out)) == (28 if fixed else 30)
    shown = [batch for batch in replace(dataset, shard=Shard()).held_out_batches() if batch.labels is not None]
    assert [int(each) for batch in shown for each in batch.labels] == dataset.held_out.tolist()
    assert [each for batch in numbers(iter(shown)) for each in batch] == dataset.held_out.tolist()
    assert all(batch.labels is None for batch in dataset.epoch(0))
    many = split(numbered(50), names, FinetuneSettings(), Shard(), None, numbered(9000))
    assert len(many.held_out) == MAX_HELD_OUT
    assert max(many.held_out) > 8000


@pytest.mark.parametrize(
    ("training", "judging", "learn", "text"),
    [
        (1, 9, "original", "data data (1 samples): 1 samples, 2 wanted to train on: add samples or ask for fewer"),
        (9, 1, "original", "data data (1 samples): 1 samples, 2 wanted to choose by: add samples or ask for fewer"),
        (9, 8, "labels", "data data (8 samples): no class folders to learn labels from"),
    ],
)
def test_those_who_judge_must_be_able_to(training: int, judging: int, learn: str, text: str) -> None:
    samples, validation = numbered(training), numbered(judging)
    samples = replace(samples, labels=np.zeros(training, np.int64))
    with pytest.raises(CalibrationError) as caught:
        split(samples, tuple(samples.sources), FinetuneSettings(learn=learn), Shard(0, 2), None, validation)
    assert str(caught.value).startswith(text)


TOO_FEW: dict[str, tuple[int, dict[str, Any], str]] = {
    "two": (2, {}, "data data (2 samples): 2 samples, 3 wanted to train on and choose by"),
    "asked for": (5, {"samples": 9}, "data data (5 samples): 5 samples, 9 wanted to train on and choose by"),
    "fixed batch": (7, {"fixed": 4}, "data data (7 samples): 7 samples, 8 wanted to train on and choose by"),
    "processes": (7, {"shard": Shard(1, 4)}, "data data (7 samples): 7 samples, 8 wanted to train on and choose by"),
    "all held out": (3, {"held_out": 0.99}, "data data (3 samples): 3 samples, 4 wanted to train on and choose by"),
}


@pytest.mark.parametrize("case", TOO_FEW)
def test_too_few_samples_are_said(case: str) -> None:
    count, options, text = TOO_FEW[case]
    with pytest.raises(CalibrationError) as caught:
        divided(numbered(count), **options)
    assert str(caught.value) == f"{text}: add samples or ask for fewer"


@pytest.mark.parametrize("learn", ["labels", "both"])
def test_labels_need_class_folders(learn: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        divided(numbered(20), learn=learn)
    assert str(caught.value) == (
        "data data (20 samples): no class folders to learn labels from: put the images of each class into a folder, "
        "or learn from the original network alone"
    )


# Epochs


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 120), st.integers(1, 50), st.integers(0, 3))
def test_an_epoch_shows_every_training_sample_at_most_once(count: int, batch_size: int, seed: int) -> None:
    """All but the rest that makes no whole batch."""
    dataset = divided(numbered(count), batch_size=batch_size, seed=seed)
    shown = numbers(dataset.epoch(0))
    assert len(shown) == dataset.steps
    flat = [number for batch in shown for number in batch]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(dataset.training.tolist())
    assert len(dataset.training) - len(flat) < batch_size
    assert {len(batch) for batch in shown} == {min(batch_size, len(dataset.training))}


def test_every_epoch_has_an_order_of_its_own() -> None:
    dataset = divided(numbered(60), batch_size=8)
    epochs = {number: numbers(dataset.epoch(number)) for number in (-1, 0, 1, 2)}
    assert len({str(each) for each in epochs.values()}) == 4
    assert all(numbers(dataset.epoch(number)) == each for number, each in epochs.items())  # the same when asked again
    assert numbers(divided(numbered(60), batch_size=8).epoch(1)) == epochs[1]
    assert numbers(divided(numbered(60), batch_size=8, seed=1).epoch(1)) != epochs[1]


def test_over_epochs_the_rest_of_a_batch_has_its_turn() -> None:
    dataset = divided(numbered(30), batch_size=20)
    shown = {number for epoch in range(12) for batch in numbers(dataset.epoch(epoch)) for number in batch}
    assert shown == set(dataset.training.tolist())


@pytest.mark.parametrize("most", [1, 5, 8, 100])
def test_held_out_samples_are_shown_once_and_in_order(most: int) -> None:
    dataset = divided(numbered(50), batch_size=4, held_out=0.3)
    shown = numbers(dataset.held_out_batches(most))
    assert [number for batch in shown for number in batch] == dataset.held_out[:most].tolist()
    assert max(map(len, shown)) <= 4


# Several processes


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 70), st.integers(1, 9))
def test_shares_part_a_batch(count: int, processes: int) -> None:
    batch = np.random.default_rng(0).permutation(count)
    parts = [Shard(rank, processes).part(batch) for rank in range(processes)]
    np.testing.assert_array_equal(np.concatenate(parts), batch)
    assert max(map(len, parts)) == -(-count // processes)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_show_together_what_one_shows(processes: int) -> None:
    """And each batch knows how many samples it has over all of them."""
    options: dict[str, Any] = {"batch_size": 12, "held_out": 0.3, "seed": 3}
    one = divided(numbered(60), **options)
    several = [divided(numbered(60), Shard(rank, processes), **options) for rank in range(processes)]
    for show in (lambda dataset: dataset.epoch(2), lambda dataset: dataset.held_out_batches()):
        whole = numbers(show(one))
        parts = [numbers(show(dataset)) for dataset in several]
        assert [[*chain(*each)] for each in zip(*parts, strict=True)] == whole
    assert {batch.total for dataset in several for batch in dataset.epoch(0)} == {12}


@pytest.mark.parametrize("batch_size", [1, 7, 8, 11])
def test_batches_can_be_shared_out_evenly(batch_size: int) -> None:
    several = [divided(numbered(60), Shard(rank, 4), batch_size=batch_size) for rank in range(4)]
    assert {dataset.batch_size for dataset in several} == {max(4, batch_size // 4 * 4)}
    for batches in zip(*(numbers(dataset.epoch(0)) for dataset in several), strict=True):
        assert len({len(each) for each in batches}) == 1


# Kinds of data


def pictures(count: int, height: int = 12, width: int = 12, channels: int = 3) -> Array:
    shape = (count, height, width, channels)[: 4 if channels == 3 else 3]
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


IMAGE = TensorSpec("x", SINGLE, (None, 3, 12, 12))
IMAGE_LAST = TensorSpec("x", SINGLE, (None, 12, 12, 3))
CLASSES = np.arange(24) % 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in three class folders, in turn."""
    return save_classes(tmp_path_factory.mktemp("images"), pictures(24), CLASSES)


def as_floats(batch: Array, spec: TensorSpec) -> Array:
    scaled = batch.astype(np.float32) / 255
    return scaled if spec is IMAGE_LAST else scaled.transpose(0, 3, 1, 2)


def by_file() -> list[int]:
    """Number of each picture in the order of files: class by class."""
    return sorted(range(24), key=lambda number: (CLASSES[number], number))


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("spec", [IMAGE, IMAGE_LAST], ids=["NCHW", "NHWC"])
def test_images_come_with_their_labels(folder: Path, tmp_path: Path, kind: str, spec: TensorSpec) -> None:
    path = folder
    if kind == "zip":
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.png")):
                archive.write(file, file.relative_to(folder))
    dataset = divided(open_samples(path, [spec], ZERO_ONE), batch_size=6, augment=False)
    known = as_floats(pictures(24), spec)
    seen = 0
    for batch in dataset.epoch(0):
        assert batch.labels is not None
        for image, label in zip(batch.inputs[0].numpy(), batch.labels.tolist(), strict=True):
            distances = np.abs(known - image).reshape(24, -1).max(axis=1)
            assert distances.min() < 1e-6
            assert CLASSES[distances.argmin()] == label
            seen += 1
    assert seen == 18


@pytest.mark.parametrize("spec", [IMAGE, IMAGE_LAST], ids=["NCHW", "NHWC"])
def test_images_are_flipped_and_shifted_by_their_number(folder: Path, spec: TensorSpec) -> None:
    """Not by their place in a batch: another batch size shows the same images; held-out ones stay as they are."""
    samples = open_samples(folder, [spec], ZERO_ONE)
    known = as_floats(pictures(24)[by_file()], spec)

    def shown(batches: Iterator[Batch]) -> Array:
        return np.concatenate([batch.inputs[0].numpy() for batch in batches])

    def wanted(dataset: DistillationData, epoch: int) -> Array:
        order = np.random.default_rng([5, epoch]).permutation(dataset.training)
        order = order[: dataset.steps * dataset.batch_size]
        return augment_images(known[order], [[5, epoch, int(each)] for each in order], channels_first=spec is IMAGE)

    for batch_size in (1, 3, 11, 22):
        dataset = divided(samples, batch_size=batch_size, seed=5)
        for epoch in (0, 1):
            np.testing.assert_allclose(shown(dataset.epoch(epoch)), wanted(dataset, epoch), atol=1e-6, rtol=0)
        keys = [[5, 2**31, int(each)] for each in dataset.held_out]  # those held out are always the same
        held_out = augment_images(known[dataset.held_out], keys, channels_first=spec is IMAGE)
        np.testing.assert_allclose(shown(dataset.held_out_batches()), held_out, atol=1e-6, rtol=0)
    assert not np.array_equal(wanted(dataset, 0), known[np.random.default_rng([5, 0]).permutation(dataset.training)])


def test_samples_of_their_own_judge_as_they_are(folder: Path) -> None:
    """They were never seen, so nothing need be done against knowing them by heart."""
    samples, validation = (open_samples(folder, [IMAGE], ZERO_ONE) for _ in range(2))
    names = tuple(samples.sources)
    dataset = split(samples, names, FinetuneSettings(batch_size=5), Shard(), None, validation)
    known = as_floats(pictures(24)[by_file()], IMAGE)
    found = np.concatenate([batch.inputs[0].numpy() for batch in dataset.held_out_batches()])
    np.testing.assert_allclose(found, known[dataset.held_out], atol=1e-6, rtol=0)
    trained = np.concatenate([batch.inputs[0].numpy() for batch in dataset.epoch(0)])
    assert not any(np.abs(known - image).reshape(24, -1).max(axis=1).min() < 1e-6 for image in trained[:1])


def test_arrays_are_not_augmented() -> None:
    """Nobody knows whether they are images, nor whether they may be flipped."""
    array = np.random.default_rng(0).random((30, 3, 12, 12), np.float32)
    dataset = divided(open_samples({"x": array}, [IMAGE], ZERO_ONE), batch_size=9)
    rows = {each.tobytes() for each in array}
    assert all(each.numpy().tobytes() in rows for batch in dataset.epoch(0) for each in batch.inputs[0])


@pytest.mark.parametrize("kind", ["npy", "npz", "batches", "mapping"])
def test_several_inputs_stay_together(tmp_path: Path, kind: str) -> None:
    """In the network's order; an input of integers stays one."""
    count = 40
    floats = np.arange(count, dtype=np.float32).reshape(-1, 1)
    arrays = {"b": np.arange(count).reshape(-1, 1), "a": np.repeat(floats, 3, axis=1)}
    specs = [TensorSpec("a", SINGLE, (None, 3)), TensorSpec("b", np.dtype(np.int64), (None, 1))]
    data: Any = arrays
    if kind == "npz":
        data = tmp_path / "data.npz"
        np.savez(data, **arrays)
    elif kind == "npy":
        data = {}
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
            data[name] = str(tmp_path / f"{name}.npy")
    elif kind == "batches":
        data = ({name: array[start : start + 7] for name, array in arrays.items()} for start in range(0, count, 7))
    samples = open_samples(data, specs, ZERO_ONE)
    dataset = split(samples, ("b", "a"), FinetuneSettings(batch_size=8), Shard(), None)
    for batch in dataset.epoch(0):
        numbers_, rows = batch.inputs
        assert (numbers_.dtype, rows.dtype) == (torch.int64, torch.float32)
        assert batch.labels is None
        assert torch.equal(numbers_.expand(-1, 3).float(), rows)


def test_half_precision_is_trained_in_single() -> None:
    spec = TensorSpec("x", np.dtype(np.float16), (None, 2))
    dataset = divided(open_samples({"x": np.ones((10, 2), np.float16)}, [spec], ZERO_ONE), batch_size=4)
    assert {batch.inputs[0].dtype for batch in dataset.epoch(0)} == {torch.float32}


# Images that cannot be decoded


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """The same folder with one image in six spoilt."""
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    for file in sorted(copy.rglob("*.png"))[::6]:
        file.write_bytes(file.read_bytes()[:60])
    return copy


def test_what_cannot_be_decoded_is_left_out_aloud(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = open_samples(damaged, [IMAGE], ZERO_ONE)
    dataset = divided(samples, batch_size=11)
    with caplog.at_level(logging.WARNING, "onnx_lowrank"):
        batches = [*dataset.epoch(0), *dataset.held_out_batches()]
    counted = sum(len(batch.inputs[0]) for batch in batches)
    assert counted == 20
    for batch in batches:
        assert batch.labels is not None
        assert len(batch.labels) == len(batch.inputs[0])
    assert len(samples.skipped) == 4
    assert {record.getMessage().partition(": ")[0] for record in caplog.records} == {
        "images that cannot be decoded are left out"
    }
    assert "class0/" in caplog.text


def test_a_batch_of_nothing_but_damaged_images_does_not_stop_training(damaged: Path) -> None:
    """As they come with small batches; only if there is nothing else it is an error."""
    dataset = divided(open_samples(damaged, [IMAGE], ZERO_ONE), batch_size=1)
    counted = sum(len(batch.inputs[0]) for batch in (*dataset.epoch(0), *dataset.held_out_batches()))
    assert counted == 20


def test_nothing_but_damaged_images_is_an_error(damaged: Path) -> None:
    for file in damaged.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(CalibrationError, match="none of the .* images tried can be decoded .*: pass images that open"):
        list(divided(open_samples(damaged, [IMAGE], ZERO_ONE), batch_size=11).epoch(0))


def test_nan_in_an_array_is_an_error() -> None:
    array = np.ones((20, 3, 12, 12), np.float32)
    array[7, 0, 0, 0] = np.nan
    dataset = divided(open_samples({"x": array}, [IMAGE], ZERO_ONE), batch_size=8)
    with pytest.raises(CalibrationError, match="sample 7 holds NaN or Inf"):
        for _ in (*dataset.epoch(0), *dataset.epoch(1), *dataset.epoch(2), *dataset.held_out_batches()):
            pass


def test_a_process_without_images_of_a_rest_goes_on(folder: Path) -> None:
    """Three processes, batches of three, five and four held-out images: of the rest some get none."""
    samples = open_samples(folder, [IMAGE], ZERO_ONE)
    for count, wanted in ((5, [2, 2, 1]), (4, [2, 1, 1])):
        each = [divided(samples, Shard(rank, 3), held_out=count / 24, batch_size=4) for rank in range(3)]
        assert (each[0].batch_size, len(each[0].held_out)) == (3, count)
        assert [sum(len(batch.inputs[0]) for batch in dataset.held_out_batches()) for dataset in each] == wanted
