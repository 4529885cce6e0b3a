from __future__ import annotations

import io
import os
import re
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.calibrate.data import archives
from onnx_lowrank.calibrate.data.npy_file import NpyFile
from onnx_lowrank.calibrate.data.preprocess import preset
from onnx_lowrank.calibrate.data.samples import Samples, iterate_batches, open_samples
from onnx_lowrank.calibrate.data.sources import ArraySource, Indices
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec

FLOAT32 = np.dtype(np.float32)
RAW = preset("raw")
PHOTO = TensorSpec("photo", FLOAT32, (None, 3, 4, 4))
ROWS = TensorSpec("rows", FLOAT32, (None, 2))
OTHER = TensorSpec("other", np.dtype(np.int64), (None,))
GREYS = {"cat/a.png": 10, "cat/b.png": 20, "dog/a.PNG": 30, "eel/deep/a.png": 40, "eel/z.png": 50}


def png(grey: int, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


CONTAINERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "folder": write_folder,
    "a.zip": write_zip,
    "a.tar": write_tar,
    "a.tar.gz": write_tar,
    "a.tgz": write_tar,
}


def write(tmp_path: Path, kind: str, files: Mapping[str, bytes]) -> Path:
    return CONTAINERS[kind](tmp_path / kind, files)


def open_rows(data: Any) -> Samples:
    return open_samples(data, [ROWS], RAW)


@pytest.fixture(params=list(CONTAINERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Images


def test_images_are_read_from_every_container_in_sorted_order(tmp_path: Path, kind: str) -> None:
    shuffled = dict(sorted(GREYS.items(), key=lambda item: -item[1]))
    path = write(tmp_path, kind, {name: png(grey) for name, grey in shuffled.items()} | {"notes.txt": b"x"})
    samples = open_samples(str(path), [PHOTO], RAW)
    assert (len(samples), samples.source, samples.skipped) == (5, f"{path} (5 images)", ())
    batch = samples.read([4, 0, 0])["photo"]
    assert (batch.dtype, batch.shape) == (FLOAT32, (3, 3, 4, 4))
    assert batch.mean(axis=(1, 2, 3)).tolist() == [50, 10, 10]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("archive", ["a.zip", "a.tar", "a.tgz"])
def test_the_path_may_go_on_inside_an_archive(tmp_path: Path, archive: str) -> None:
    files = {"set/train/cat/1.png": png(1), "set/train/dog/2.png": png(2), "set/training/cat/3.png": png(3)}
    path = write(tmp_path, archive, files)
    samples = open_samples(path / "set" / "train", [PHOTO], RAW)
    assert samples.source == f"{path}/set/train (2 images)"
    assert samples.read([0, 1])["photo"][:, 0, 0, 0].tolist() == [1, 2]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1]
    assert len(open_samples(path / "set/train/dog/2.png", [PHOTO], RAW)) == 1
    with pytest.raises(CalibrationError, match=rf"{archive}: no 'tr' inside; it holds set: correct the path"):
        open_samples(path / "tr", [PHOTO], RAW)


@pytest.mark.parametrize(
    "names",
    [["a.png", "b.png"], ["wrapper/a.png", "wrapper/b.png"], ["a.png", "cat/b.png", "dog/b.png"]],
)
def test_no_class_folders_no_labels(tmp_path: Path, kind: str, names: list[str]) -> None:
    path = write(tmp_path, kind, dict.fromkeys(names, png(1)))
    assert open_samples(path, [PHOTO], RAW).labels is None


def test_a_class_without_images_keeps_its_number(tmp_path: Path) -> None:
    path = write(tmp_path, "folder", {"set/a/1.png": png(1), "set/c/1.png": png(1), "set/b/notes.txt": b""})
    labels = open_samples(path, [PHOTO], RAW).labels
    assert labels is not None
    assert labels.tolist() == [0, 2]


def test_what_a_mac_leaves_behind_is_passed_over(tmp_path: Path, kind: str) -> None:
    junk = {"__MACOSX/cat/._a.png": b"x", "cat/._a.png": b"x", ".cache/a.png": b"x"}
    path = write(tmp_path, kind, {name: png(grey) for name, grey in GREYS.items()} | junk)
    samples = open_samples(path, [PHOTO], RAW)
    assert samples.usable(range(len(samples))).tolist() == [0, 1, 2, 3, 4]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_folder(tmp_path, {"store/a.png": png(1), "set/cat/b.png": png(2)})
    (tmp_path / "set/dog").symlink_to(tmp_path / "store")
    (tmp_path / "store/back").symlink_to(tmp_path / "set")
    assert len(open_samples(tmp_path / "set", [PHOTO], RAW)) == 2


def test_preprocessing_and_layout_are_those_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "folder", {"a.png": png(255, size=(9, 6))})
    last = TensorSpec("photo", np.dtype(np.float16), (1, 5, 7, 3))
    batch = open_samples(path, [last], preset("minus-one-one")).read([0])["photo"]
    np.testing.assert_array_equal(batch, np.ones((1, 5, 7, 3), np.float16))
    assert batch.dtype == np.float16
    bytes_input = TensorSpec("photo", np.dtype(np.uint8), (1, 5, 7, 3))
    batch = open_samples(path, [bytes_input], preset("imagenet")).read([0])["photo"]
    np.testing.assert_array_equal(batch, np.full((1, 5, 7, 3), 255, np.uint8))
    assert batch.dtype == np.uint8


def test_inputs_of_open_size_take_the_size_all_images_share(tmp_path: Path) -> None:
    files = {"0.png": b"broken", "1.png": png(1, (6, 5)), "2.png": png(2, (6, 5)), "3.png": png(3, (5, 6))}
    path = write(tmp_path, "folder", files)
    samples = open_samples(path, [TensorSpec("photo", FLOAT32, (None, 3, None, None))], RAW)
    assert samples.read([1, 2])["photo"].shape == (2, 3, 5, 6)
    text = (
        r"3.png is 5 x 6, others are 6 x 5, .*no fixed size: pass one, as in `input_shapes={'photo': \(1,3,224,224\)}`"
    )
    with pytest.raises(CalibrationError, match=text):
        samples.usable([1, 3])
    with pytest.raises(CalibrationError, match=text):
        samples.read([3])
    last = open_samples(path, [TensorSpec("photo", FLOAT32, (None, None, None, 1))], RAW)
    with pytest.raises(CalibrationError, match=r"`input_shapes={'photo': \(1,224,224,1\)}`"):
        last.read([3])


def test_images_that_cannot_be_decoded_are_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    cut_off = buffer.getvalue()[: buffer.tell() // 2]
    files = {"0.png": png(1), "1.png": cut_off, "2.png": b"nonsense", "3.png": png(3), "4.png": b""}
    path = write(tmp_path, kind, files)
    samples = open_samples(path, [PHOTO], RAW)
    assert samples.usable([3, 2, 0, 1]).tolist() == [3, 0]
    assert len(samples.skipped) == 2  # 4.png was not asked about
    assert re.fullmatch(r"1\.png: .*truncated.*", samples.skipped[0])
    assert samples.skipped[1] == "2.png: not an image of a known format"
    assert samples.usable([]).tolist() == []
    with pytest.raises(CalibrationError, match=r"\(5 images\): none of the 2 images tried can be decoded \(the first"):
        samples.usable([4, 2])
    with pytest.raises(CalibrationError, match=r"2\.png cannot be decoded \(not an image of a known format\): remove"):
        samples.read([0, 2])


def test_only_bad_images_for_an_input_of_open_size(tmp_path: Path) -> None:
    path = write(tmp_path, "folder", {"0.png": b"", "1.png": b"x"})
    with pytest.raises(CalibrationError, match=r"\(2 images\): none of them can be decoded"):
        open_samples(path, [TensorSpec("photo", FLOAT32, (None, 3, None, None))], RAW)


def test_files_too_large_for_an_image_are_not_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, kind, {"0.png": png(1), "1.png": bytes(3 * 2**20)})
    monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 2 * 2**20)
    samples = open_samples(path, [PHOTO], RAW)
    assert samples.usable([0, 1]).tolist() == [0]
    assert samples.skipped == ("1.png: file of 3 MiB, more than the 2 MiB an image may have",)


def test_a_zip_member_never_yields_more_than_its_index_says(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"0.png": png(1), "1.png": bytes(2**24)})
    content = path.read_bytes()
    true_size = struct.pack("<I", 2**24)
    assert content.count(true_size) == 2  # local header and index
    path.write_bytes(content.replace(true_size, struct.pack("<I", 100)))
    samples = open_samples(path, [PHOTO], RAW)
    tracemalloc.start()
    assert samples.usable([0, 1]).tolist() == [0]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "Bad CRC-32" in samples.skipped[0]
    assert peak_bytes < 2**22


def test_a_compressed_tar_is_bounded_because_it_is_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "a.tgz", {"0.png": bytes(2**20), "1.png": bytes(2**20)})
    monkeypatch.setattr(archives, "MAX_COMPRESSED_TAR_BYTES", 2**20)
    with pytest.raises(CalibrationError, match=r"a\.tgz: more than 1 MiB of images.*unpack it, or make it a \.tar"):
        open_samples(path, [PHOTO], RAW)


@pytest.mark.parametrize("archive", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("damage", ["nonsense", "cut off", "cut off between members"])
def test_archives_that_cannot_be_read(tmp_path: Path, archive: str, damage: str) -> None:
    path = write(tmp_path, archive, {name: png(grey) for name, grey in GREYS.items()})
    content = path.read_bytes()
    kept = 2048 if damage.endswith("members") and archive == "a.tar" else len(content) // 3
    path.write_bytes(b"nonsense" * 200 if damage == "nonsense" else content[:kept])
    with pytest.raises(CalibrationError, match=rf"{archive}: cannot be read as an archive \(.+\): make or download"):
        open_samples(path, [PHOTO], RAW)


def test_missing_and_empty_paths(tmp_path: Path) -> None:
    for missing in ("none", "none.npy", "none.zip/inside", "x" * 300):
        with pytest.raises(CalibrationError, match=rf"{missing}: (no such file or folder|cannot be read)"):
            open_samples(tmp_path / missing, [PHOTO], RAW)
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "texts", {"a.txt": b""})
    for empty in ("empty", "texts"):
        with pytest.raises(CalibrationError, match=rf"{empty}: no images found \(looked for .jpg .jpeg .png"):
            open_samples(tmp_path / empty, [PHOTO], RAW)
    with pytest.raises(CalibrationError, match=r"a\.txt: neither a folder nor one of .npy, .npz, .zip, .tar"):
        open_samples(tmp_path / "texts/a.txt", [PHOTO], RAW)
    with pytest.raises(CalibrationError, match=r"b\.zip: no images found"):
        open_samples(write_zip(tmp_path / "b.zip", {}), [PHOTO], RAW)


def test_images_for_an_input_that_takes_none(tmp_path: Path) -> None:
    path = write(tmp_path, "folder", {"a.png": png(1)})
    with pytest.raises(CalibrationError, match=r"input 'rows': shape \(samples, 2\) found, four axes wanted"):
        open_rows(path)


def test_folders_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path, "folder", {"cat/a.png": png(1), "dog/a.png": png(1)})
    (path / "dog").chmod(0)
    try:
        if os.access(path / "dog", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(CalibrationError, match=r"dog: cannot be read \(Permission denied\): check its perm"):
            open_samples(path, [PHOTO], RAW)
    finally:
        (path / "dog").chmod(0o700)


# Arrays


def test_npy_stays_in_its_file_and_is_converted_when_read(tmp_path: Path) -> None:
    values = np.arange(10, dtype=">f8").reshape(5, 2)
    np.save(tmp_path / "rows.npy", values)
    samples = open_rows(tmp_path / "rows.npy")
    source = samples.sources["rows"]
    assert isinstance(source, ArraySource)
    assert isinstance(source.array, NpyFile)
    batch = samples.read(np.array([3, 1]))["rows"]
    assert batch.dtype == FLOAT32
    assert batch.tolist() == [[6, 7], [2, 3]]
    assert (samples.source, samples.labels) == (f"{tmp_path / 'rows.npy'} (5 samples)", None)
    assert samples.usable([4, 2]).tolist() == [4, 2]


def test_npz_by_name_and_a_single_one_by_any_name(tmp_path: Path) -> None:
    rows, other = np.ones((3, 2)), np.arange(3)
    np.savez_compressed(tmp_path / "both.npz", rows=rows, other=other)
    batch = open_samples(tmp_path / "both.npz", [ROWS, OTHER], RAW).read([2])
    assert batch["rows"].tolist() == [[1, 1]]
    assert batch["other"].tolist() == [2]
    np.savez(tmp_path / "one.npz", rows)
    assert open_rows(tmp_path / "one.npz").read([0])["rows"].tolist() == [[1, 1]]
    with pytest.raises(CalibrationError, match=r"both\.npz: holds other, rows, the model's inputs are rows: give one"):
        open_rows(tmp_path / "both.npz")
    with pytest.raises(CalibrationError, match=r"one\.npz: holds arr_0, the model's inputs are other, rows"):
        open_samples(tmp_path / "one.npz", [ROWS, OTHER], RAW)


def test_several_inputs_from_several_paths(tmp_path: Path) -> None:
    path = write(tmp_path, "folder", {"cat/a.png": png(7), "dog/a.png": png(8), "dog/b.png": b"bad"})
    np.save(tmp_path / "rows.npy", np.arange(6.0).reshape(3, 2))
    samples = open_samples({"rows": str(tmp_path / "rows.npy"), "photo": path}, [PHOTO, ROWS], RAW)
    assert samples.source == f"photo={path} (3 images), rows={tmp_path / 'rows.npy'} (3 samples)"
    assert samples.usable([2, 1, 0]).tolist() == [1, 0]
    batch = samples.read([1])
    assert (batch["photo"].mean(), batch["rows"].tolist()) == (8, [[2, 3]])
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 1]

    np.save(tmp_path / "short.npy", np.zeros((2, 2)))
    with pytest.raises(CalibrationError, match=r"data: inputs differ in their number of samples \(photo 3, rows 2\)"):
        open_samples({"rows": tmp_path / "short.npy", "photo": path}, [PHOTO, ROWS], RAW)
    with pytest.raises(CalibrationError, match="data: holds photos, rows, the model's inputs are photo, rows"):
        open_samples({"rows": "r.npy", "photos": path}, [PHOTO, ROWS], RAW)
    with pytest.raises(CalibrationError, match=r"for one input, the model has photo, rows: pass `data={'NAME': PATH}`"):
        open_samples(path, [PHOTO, ROWS], RAW)


def reused_buffer() -> Iterator[NDArray[np.float32]]:
    buffer = np.zeros((2, 2), np.float32)
    for value in (1, 2):
        buffer[:] = value
        yield buffer


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (np.array([[1.0, 2.0], [3.0, 4.0]]), [[1, 2], [3, 4]]),
        ({"rows": np.array([[1.0, 2.0]], np.float16)}, [[1, 2]]),
        ([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]])], [[1, 2], [3, 4], [5, 6]]),
        (({"rows": np.full((1, 2), float(value))} for value in range(3)), [[0, 0], [1, 1], [2, 2]]),
        (reused_buffer(), [[1, 1], [1, 1], [2, 2], [2, 2]]),
    ],
)
def test_arrays_and_batches_of_arrays(data: Any, wanted: list[list[float]]) -> None:
    samples = open_rows(data)
    batch = samples.read(range(len(samples)))["rows"]
    assert batch.dtype == FLOAT32
    assert batch.tolist() == wanted


def test_batches_for_several_inputs() -> None:
    batches = [{"rows": np.zeros((size, 2)), "other": np.arange(size)} for size in (2, 3)]
    samples = open_samples(batches, [ROWS, OTHER], RAW)
    assert samples.read([1, 4])["other"].tolist() == [1, 2]
    assert samples.source == "rows=batches (5 samples), other=batches (5 samples)"
    batches[1]["other"] = np.arange(2)
    with pytest.raises(CalibrationError, match=r"batch 2: inputs differ in their number of samples \(rows 3, other 2"):
        open_samples(batches, [ROWS, OTHER], RAW)


def open_width() -> TensorSpec:
    return TensorSpec("rows", FLOAT32, (None, None))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            np.zeros((4, 3)),
            r"data: input 'rows': shape \(4, 3\) found, \(samples, 2\) wanted: bring the array",
        ),
        (np.zeros(2), r"shape \(2,\) found, \(samples, 2\) wanted"),
        (np.zeros((4, 2), np.int64), "input 'rows': type int64 found, float32 wanted: convert the array"),
        (
            np.zeros((4, 2), np.uint8),
            "type uint8 found, float32 wanted: pass the images themselves, or scale",
        ),
        (np.zeros((4, 2), bool), "type bool found, float32 wanted"),
        (np.zeros((4, 2), complex), "type complex128 found, float32 wanted"),
        (np.zeros((4, 2), object), "type object found, float32 wanted"),
        (np.zeros((0, 2)), "data: input 'rows': no samples found, at least one wanted"),
        ([], "batches: there are none: give at least one"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], r"batch 2: input 'rows': shape \(1, 3\) found"),
        ({"row": np.zeros((1, 2))}, "data: holds row, the model's inputs are rows"),
        (
            [{"rows": np.zeros((1, 2)), "y": np.zeros(1)}],
            "batch 1: holds rows, y, the model's inputs are rows",
        ),
        (
            [(np.zeros((1, 2)), 3)],
            "batch 1: tuple found, {input name: array} wanted, or an array: convert it",
        ),
        ([{"rows": [[1.0, 2.0]]}], "batch 1: list found, {input name: array} wanted"),
    ],
)
def test_arrays_that_do_not_fit(data: Any, text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        open_rows(data)


def test_integer_inputs_take_their_own_type_only() -> None:
    assert open_samples(np.arange(3, dtype=">i8"), [OTHER], RAW).read([2])["other"].dtype == np.int64
    with pytest.raises(CalibrationError, match="type int32 found, int64 wanted"):
        open_samples(np.arange(3, dtype=np.int32), [OTHER], RAW)
    with pytest.raises(CalibrationError, match="type float64 found, int64 wanted"):
        open_samples(np.zeros(3), [OTHER], RAW)


def test_bare_arrays_do_not_say_which_input_they_are_for() -> None:
    with pytest.raises(CalibrationError, match=r"data: ndarray found, \{input name: array\} wanted: convert"):
        open_samples(np.zeros((3, 2)), [ROWS, OTHER], RAW)


def test_batches_of_several_shapes_for_an_open_axis() -> None:
    batches = [np.zeros((1, 2)), np.zeros((1, 3))]
    with pytest.raises(CalibrationError, match=r"batch 2: input 'rows': samples of shape \(3,\), before it \(2,\)"):
        open_samples(batches, [open_width()], RAW)


def test_a_tensor_that_cannot_be_an_array() -> None:
    class OnDevice:
        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            raise TypeError("copy it to the host first")

    with pytest.raises(CalibrationError, match=r"batch 1: cannot be made a numpy array \(copy it to the host first\)"):
        open_rows([OnDevice()])


@pytest.mark.parametrize("data", [None, 3])
def test_data_of_no_known_kind_is_a_mistake_of_the_caller(data: Any) -> None:
    with pytest.raises(TypeError, match="data must be a path, a mapping or an iterable of batches, got"):
        open_rows(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_found_when_read(tmp_path: Path, value: float) -> None:
    rows = np.zeros((5, 2))
    rows[3, 1] = value
    np.save(tmp_path / "rows.npy", rows)
    samples = open_rows(tmp_path / "rows.npy")
    assert len(samples.read([0, 1, 2, 4])["rows"]) == 4
    with pytest.raises(CalibrationError, match=r"rows\.npy: input 'rows': sample 3 holds NaN or Inf \(as float32\)"):
        samples.read([4, 3])


def test_numbers_too_large_for_the_input_are_inf() -> None:
    half = TensorSpec("rows", np.dtype(np.float16), (None, 2))
    with pytest.raises(CalibrationError, match=r"sample 0 holds NaN or Inf \(as float16\)"):
        open_samples(np.full((1, 2), 1e6), [half], RAW).read([0])


def test_numpy_files_that_cannot_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.zeros((100, 2)))
    content = (tmp_path / "whole.npy").read_bytes()
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "pickled.npz", rows=np.array([{}], dtype=object))
    (tmp_path / "cut.npy").write_bytes(content[:200])
    (tmp_path / "cut.npz").write_bytes(b"PK nonsense")
    (tmp_path / "other.npz").write_bytes(content)
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("pickled.npy", "pickled.npz", "cut.npy", "cut.npz", "other.npz", "empty.npy"):
        ending = name[-4:]
        with pytest.raises(CalibrationError, match=rf"{name}: cannot be read as {ending} \(.+\): save it with numpy"):
            open_rows(tmp_path / name)


def test_an_npy_without_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((0, 2)))
    with pytest.raises(CalibrationError, match=r"rows\.npy"):
        open_rows(tmp_path / "rows.npy")


# Batches


@given(st.lists(st.integers(0, 19), max_size=30), st.integers(1, 12))
def test_batches_follow_the_indices(indices: list[int], batch_size: int) -> None:
    rows = np.arange(40.0).reshape(20, 2)
    batches = [batch["rows"] for batch in iterate_batches(open_rows(rows), indices, batch_size)]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    found = np.concatenate([np.empty((0, 2)), *batches])
    np.testing.assert_array_equal(found, rows[indices].reshape(-1, 2))


def test_images_in_batches_are_the_same_from_many_threads(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, {f"{index:03}.png": png(index) for index in range(60)})
    samples = open_samples(path, [PHOTO], RAW)
    order = np.random.default_rng(0).permutation(60)

    def read_all() -> None:
        batches = list(iterate_batches(samples, order, 7))
        found.append(np.concatenate([batch["photo"][:, 0, 0, 0] for batch in batches]))

    found: list[NDArray[Any]] = []
    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [values.tolist() for values in found] == [order.tolist()] * 4


def test_the_next_batch_is_read_while_the_current_one_is_used() -> None:
    started = [threading.Event() for _ in range(3)]

    class Watched(ArraySource):
        def read(self, indices: Indices) -> NDArray[Any]:
            started[indices[0]].set()
            return super().read(indices)

    samples = Samples({"rows": Watched(np.zeros((3, 2), np.float32), ROWS, "rows")})
    batches = iterate_batches(samples, [0, 1, 2], 1)
    next(batches)
    assert started[1].wait(timeout=10)
    assert not started[2].wait(timeout=0.1)


def test_errors_of_the_background_arrive() -> None:
    samples = open_rows(np.array([[0.0, 0.0], [0.0, np.nan]]))
    batches = iterate_batches(samples, [0, 1], 1)
    assert next(batches)["rows"].tolist() == [[0, 0]]
    with pytest.raises(CalibrationError, match="sample 1 holds NaN"):
        next(batches)


def test_batches_hold_something() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        list(iterate_batches(open_rows(np.zeros((1, 2))), [0], 0))
