"""Where labels are looked for, and packages that measures need."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank.errors import CalibrationError, MissingDependencyError
from onnx_lowrank.metrics import metric_named
from onnx_lowrank.metrics.labels.mask_files import find_masks
from onnx_lowrank.metrics.labels.places import entries_by_name, find_file
from tests.metrics.predictors import Function, samples, score

NAMES = ("texts.tsv", "texts.csv")


def test_labels_lie_in_the_folder_of_images(tmp_path: Path) -> None:
    assert find_file(tmp_path, NAMES, None) is None
    (tmp_path / "texts.csv").touch()
    assert find_file(tmp_path, NAMES, None) == tmp_path / "texts.csv"
    (tmp_path / "texts.tsv").touch()
    assert find_file(tmp_path, NAMES, None) == tmp_path / "texts.tsv"
    assert find_file(None, NAMES, None) is None


def test_labels_lie_beside_an_archive(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").touch()
    (tmp_path / "lines.zip").touch()
    for source in (tmp_path / "lines.zip", tmp_path / "lines.zip" / "test"):
        assert find_file(source, NAMES, None) == tmp_path / "texts.csv"


def test_a_given_file_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "other.txt"
    message = f"labels {file}: no such file or folder: check the path"
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        find_file(tmp_path, NAMES, file)
    file.touch()
    assert find_file(tmp_path, NAMES, file) == file


def test_masks_lie_beside_the_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    assert find_masks(tmp_path / "images", None) is None
    (tmp_path / "masks").mkdir()
    assert find_masks(tmp_path / "images", None) == tmp_path / "masks"
    monkeypatch.chdir(tmp_path)
    assert find_masks(Path("images"), None) == tmp_path / "masks"
    assert find_masks(tmp_path / "masks", None) is None  # they are no masks of themselves
    message = f"labels {tmp_path / 'none'}: no such folder: pass the folder of masks"
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        find_masks(tmp_path / "images", tmp_path / "none")


def test_names_of_files_alone_do_where_they_are_unique() -> None:
    entries = {"a/1.png": 1, "b/1.png": 2, "c/2.png": 3}
    file = Path("labels.tsv")
    assert entries_by_name(entries, ["b/1.png", "2.png", "x/2.png"], file) == [2, 3, 3]
    message = (
        "labels.tsv: no entry for 1 of 1 images, '1.png' for one; it names 'a/1.png', 'b/1.png', ...: add the entries, "
        "or leave out the images"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        entries_by_name(entries, ["1.png"], file)


def test_samples_of_arrays_have_no_labels_in_files(tmp_path: Path) -> None:
    message = "labels.tsv: samples of arrays have no names to look up: pass a folder of images"
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        entries_by_name({"1.png": 1}, [None], Path("labels.tsv"))


@pytest.mark.parametrize(
    ("name", "package", "output"),
    [
        ("map", "faster_coco_eval", np.float32([[[8, 8, 24, 24, 0.9, 0]]])),
        ("cer", "rapidfuzz", np.eye(3, dtype=np.float32)[[[0, 1, 2]]]),
    ],
)
def test_packages_that_are_missing(
    name: str, package: str, output: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    network = Function(lambda _: {"output": output}, ("output",))
    data = samples(np.zeros((1, 3, 32, 32), np.float32))
    prepared = metric_named(name).prepare(network, data)
    wanted = rf"^metric {name}: needs {package.replace('_', '-')} \(.*\): pip install 'onnx-lowrank\[metrics\]'$"
    with pytest.raises(MissingDependencyError, match=wanted):
        score(prepared, network, data)
