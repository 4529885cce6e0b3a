"""Classes of images by folders, numbers, or lines of a file; and labels that a network's scores do not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnx_lowrank.calibrate.data.archives import ImageFiles
from onnx_lowrank.calibrate.data.labels import LabelRule, image_labels
from onnx_lowrank.errors import CalibrationError

WANTED = "one class a line, in the order of the scores"


def files(*names: str, folders: tuple[str, ...] = ()) -> ImageFiles:
    return ImageFiles("photos", names, folders, lambda _: b"")


def labels(images: ImageFiles, names: object = None) -> tuple[list[int], str, int]:
    """Classes, the rule and the number of classes."""
    classes, rule = image_labels(images, names)  # type: ignore[arg-type]
    assert classes is not None
    assert rule is not None
    return classes.tolist(), rule.kind, rule.classes


def refused(images: ImageFiles, names: object) -> str:
    with pytest.raises(CalibrationError) as caught:
        image_labels(images, names)  # type: ignore[arg-type]
    return str(caught.value)


# Folders


def test_folders_count_in_sorted_order_those_without_images_too() -> None:
    images = files("set/a/1.png", "set/c/1.png", "set/c/deep/2.png", folders=("set/a", "set/b", "set/c", "set/c/deep"))
    assert labels(images) == ([0, 2, 2], "order", 3)


def test_numbers_are_the_classes_that_they_say() -> None:
    """In sorted order, 10 would come before 2."""
    assert labels(files("10/a.png", "2/a.png", "007/a.png")) == ([10, 2, 7], "numbers", 11)


@pytest.mark.parametrize("name", ["1a", "-1", "1.5", "²", "one", "20261129171756000000000"])
def test_one_folder_that_is_no_number_makes_names_of_all(name: str) -> None:
    classes, kind, count = labels(files("10/a.png", "2/a.png", f"{name}/a.png"))
    every = sorted(["10", "2", name])
    assert (classes, kind, count) == ([every.index(each) for each in ("10", "2", name)], "order", 3)


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("in/a.png", "in/b.png"), ("a.png", "cat/b.png", "dog/b.png")])
def test_no_class_folders_no_labels(names: tuple[str, ...]) -> None:
    assert image_labels(files(*names)) == (None, None)


# Names


@pytest.mark.parametrize("kind", ["file", "path", "list"])
def test_lines_are_the_classes_in_their_order(tmp_path: Path, kind: str) -> None:
    lines = ["tench", "great white shark", "cock", "hen"]
    path = tmp_path / "names.txt"
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n\n")
    names = {"file": str(path), "path": path, "list": lines}[kind]
    images = files("hen/1.png", "Great_White_Shark/1.png", "tench/1.png")
    assert labels(images, names) == ([3, 1, 0], "lines", 4)


def test_files_begin_with_their_class() -> None:
    names = ["n01440764", "n01443537", "n0144", "ox", "ox cart"]
    images = files(
        "all/n01440764_tench.jpg", "all/n0144-x.jpg", "all/n01443537.jpg", "all/ox_cart_2.png", "all/ox 3.png"
    )
    assert labels(images, names) == ([0, 2, 1, 4, 3], "lines", 5)


def test_first_words_are_names_where_they_differ() -> None:
    synsets = ["n01440764 tench, Tinca tinca", "n01443537, goldfish"]
    assert labels(files("a/n01443537_goldfish.jpg", "a/n01440764_tench.jpg"), synsets)[0] == [1, 0]
    assert labels(files("n01443537/1.jpg", "n01440764/2.jpg"), synsets)[0] == [1, 0]
    assert labels(files("n01440764 tench, Tinca tinca/1.jpg", "n01443537/2.jpg"), synsets)[0] == [0, 1]
    great = ["great grey owl", "great white shark"]
    assert "class folder 'great' of photos is on none of 2 lines" in refused(
        files("great/1.jpg", "great grey owl/1.jpg"), great
    )


def test_files_count_where_folders_are_no_classes() -> None:
    assert labels(files("left/cat_1.png", "right/dog_1.png"), ["dog", "cat"]) == ([1, 0], "lines", 2)


def test_names_that_say_nothing_of_an_image(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\neel\ncat\n")
    assert refused(files("dog/1.png", "cow/1.png"), path) == (
        f"`class_names` {path}: class folder 'cow' of photos is on none of 4 lines ('cat', 'dog', ...), one is wanted: "
        "correct the file or the name"
    )
    assert "class folder 'cat' of photos is on lines 1 and 4, one is wanted" in refused(
        files("cat/1.png", "dog/1.png"), path
    )
    assert refused(files("dog_1.png", "cow_1.png", "catfish.png"), path) == (
        f"`class_names` {path}: 2 of 3 images of photos have no class, 'cow_1.png' begins with what is on none "
        "of 4 lines ('cat', 'dog', ...), one is wanted: correct the file or the name"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory): check the path"),
        (b"\xff\xfe\x00", "not a text file: write one class a line"),
        (b"", "nothing in it, one class a line is wanted: name every class that is scored"),
        (b"cat\n\ndog\n", "line 2 is empty, one class a line is wanted: name every class that is scored"),
        (b"cat\n,\ndog\n", "line 2 is empty"),
        (b"cat\n_\n", "line 2 is empty"),
    ],
)
def test_files_of_names_that_are_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    assert refused(files("cat/1.png"), path).startswith(f"`class_names` {path}: {message}")


# What is scored


@pytest.mark.parametrize(("kind", "classes", "scored"), [("order", 5, 5), ("lines", 5, 5), ("numbers", 3, 5)])
def test_labels_that_fit(kind: str, classes: int, scored: int) -> None:
    LabelRule(kind, classes, "photos").check(scored, "y")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "classes", "scored", "message"),
    [
        (
            "order",
            500,
            1000,
            f"data photos: 500 class folders found, output 'y' scores 1000 classes: pass `class_names='FILE'` with "
            f"{WANTED}, or name each folder by the number of its class, 0 to 999",
        ),
        ("order", 1000, 1001, "data photos: 1000 class folders found, output 'y' scores 1001 classes: pass"),
        (
            "numbers",
            11,
            10,
            "data photos: class folder 10 found, output 'y' scores 10 classes, 0 to 9: number folders from 0, or pass "
            f"`class_names='FILE'` with {WANTED}",
        ),
        (
            "lines",
            999,
            1000,
            "photos: 999 lines found, output 'y' scores 1000 classes: give one line for each, in the order of "
            "the scores",
        ),
        ("lines", 1001, 1000, "photos: 1001 lines found, output 'y' scores 1000 classes"),
    ],
)
def test_labels_that_do_not_fit(kind: str, classes: int, scored: int, message: str) -> None:
    with pytest.raises(CalibrationError, match=re.escape(message)):
        LabelRule(kind, classes, "photos").check(scored, "y")  # type: ignore[arg-type]
