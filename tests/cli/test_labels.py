"""Labels on the command line: everything that judges by them takes the same ones, and refuses those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.command_line import call, fails, works
from tests.helpers import Array, run
from tests.networks import images, network

NAMES = ("ant", "bee", "cat", "dog", "eel")  # what the scores of the network stand for
COMPARE = ("compare", "in.onnx", "in.onnx", "--data", "photos", "--labels")
EVERY = {
    "compare": COMPARE,
    "convert": ("in.onnx", "out.onnx", "--data", "photos", "--max-drop", "5%", "--labels", "--no-bench"),
    "sweep": ("sweep", "in.onnx", "out", "--data", "photos", "--speedups", "1.5", "--labels", "--no-bench"),
    "finetune": ("finetune", "in.onnx", "in.onnx", "out.onnx", "--data", "photos", "--learn", "both"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a network of five scores."""
    onnx.save(network(), tmp_path / "in.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photos(count: int = 40) -> tuple[list[Array], Array]:
    """Pictures, each of its own colour, and the class that the network gives each: one of several."""
    generator = np.random.default_rng(0)
    colours = generator.integers(60, 196, (count, 1, 1, 3))
    pixels = (colours + generator.integers(-60, 60, (count, 12, 12, 3))).astype(np.uint8)
    scores = run(network(), {"x": (pixels / 255).astype(np.float32).transpose(0, 3, 1, 2)})["scores"]
    return list(pixels), scores.argmax(1)


def save(pixels: Array, name: str) -> None:
    path = Path("photos") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def top1(*words: str) -> float:
    found = json.loads(works(*COMPARE, "--json", *words).stdout)["accuracy"]["top1"]
    assert found[0] == found[1]
    return float(found[0])


def test_class_names_give_folders_and_files_their_classes(folder: Path) -> None:
    """The network is right on all images by construction, if every one has the class that its name says."""
    Path("names.txt").write_text("\n".join(NAMES))
    for number, (pixels, label) in enumerate(zip(*photos(), strict=True)):
        save(pixels, f"{NAMES[label]}_{number}.png")
    assert len({path.name[:3] for path in Path("photos").iterdir()}) >= 2
    assert top1("--class-names", "names.txt") == 1
    error = fails(folder, *COMPARE)
    assert error.endswith(
        "no class folders, which --labels reads: drop --labels, or where file names begin with their class, pass "
        "--class-names FILE"
    )
    for path in list(Path("photos").iterdir()):
        target = Path("photos", path.name[:3], path.name)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    assert top1("--class-names", "names.txt") == 1
    Path("names.txt").write_text("\n".join(reversed(NAMES)))
    assert top1("--class-names", "names.txt") < 0.5


def test_numbered_folders_are_their_classes(folder: Path) -> None:
    for number, (pixels, label) in enumerate(zip(*photos(), strict=True)):
        save(pixels, f"{label:02}/{number}.png")
    assert 2 <= len(list(Path("photos").iterdir())) < 5  # in sorted order they would be refused
    assert top1() == 1


@pytest.mark.parametrize("command", EVERY)
def test_folders_that_do_not_match_the_scores_are_refused(folder: Path, command: str) -> None:
    for number, (pixels, _) in enumerate(zip(*photos(), strict=True)):
        save(pixels, f"{NAMES[number % 3]}/{number}.png")
    error = fails(folder, *EVERY[command])
    assert error == (
        "error: data photos (40 images): 3 class folders found, output 'scores' scores 5 classes: pass --class-names "
        "FILE with one class a line, in the order of the scores, or name each folder by the number of its class, 0 to 4"
    )
    assert not Path("out").exists()
    Path("names.txt").write_text("\n".join(NAMES[:4]))
    assert fails(folder, *EVERY[command], "--class-names", "names.txt") == (
        "error: --class-names names.txt: 4 lines found, output 'scores' scores 5 classes: give one line for each, in "
        "the order of the scores"
    )
    Path("names.txt").write_text("\n".join(NAMES))
    works(*EVERY[command], "--class-names", "names.txt")


@pytest.mark.parametrize("command", EVERY)
def test_names_that_cannot_be_read(folder: Path, command: str) -> None:
    save(photos(1)[0][0], "ant/1.png")
    assert fails(folder, *EVERY[command], "--class-names", "none.txt") == (
        "error: --class-names none.txt: cannot be read (No such file or directory): check the path"
    )


@pytest.mark.parametrize("command", ["compare", "convert", "sweep"])
def test_names_without_labels_are_a_usage_error(folder: Path, command: str) -> None:
    words = [word for word in EVERY[command] if word not in {"--labels", "--max-drop", "5%"}]
    result = call(*words, "--class-names", "names.txt")
    assert result.exit_code == 2
    assert "--class-names goes with --labels: it says what they are called" in result.stderr


def test_an_original_that_guesses_is_a_warning(folder: Path) -> None:
    for number, pixels in enumerate(photos(100)[0]):
        save(pixels, f"{NAMES[number % 5]}/{number}.png")
    found = works(*COMPARE)
    share = float(found.stdout.partition("top1: A ")[2].partition("%")[0])
    assert share < 32
    assert found.stderr.count("warning: ") == 1
    assert (
        f"warning: top-1 of the original is {share:.2f}% on 100 images, near the 20% of guessing among 5 classes: "
        "check the preprocessing, and that classes are in the order of its scores (--class-names)\n"
    ) in found.stderr
    for command in ("sweep", "convert", "finetune"):
        assert "near the 20% of guessing among 5 classes" in works(*EVERY[command], "--force").stderr


def test_an_original_that_is_right_is_none(folder: Path) -> None:
    pixels, classes = photos(100)
    for number, (each, label) in enumerate(zip(pixels, classes, strict=True)):
        save(each, f"{label}/{number}.png")
    assert "warning" not in works(*COMPARE).stderr


def test_fine_tuning_to_the_original_takes_folders_for_what_they_are(folder: Path) -> None:
    """Three folders of five classes may be anything: they are no labels, and nothing is said of accuracy."""
    for number, pixels in enumerate(photos()[0]):
        save(pixels, f"{NAMES[number % 3]}/{number}.png")
    words = ("finetune", "in.onnx", "in.onnx", "out.onnx", "--data", "photos", "--epochs", "1")
    result = works(*words, "--report", "r.json")
    assert "class folders are not taken for classes: data photos (40 images): 3 class folders found" in result.stderr
    assert json.loads(Path("r.json").read_text())["before"]["accuracy"] is None


def test_arrays_have_no_labels(folder: Path) -> None:
    np.save("data.npy", images())
    Path("names.txt").write_text("\n".join(NAMES))
    words = ("compare", "in.onnx", "in.onnx", "--data", "data.npy", "--labels")
    assert "no class folders, which --labels reads" in fails(folder, *words, "--class-names", "names.txt")
