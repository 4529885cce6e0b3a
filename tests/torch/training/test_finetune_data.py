"""What is learnt from: labels, images, samples to judge by."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.calibrate import preset
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.torch import Finetuned, Marks, finetune
from onnx_lowrank.torch.training.trainer import Trainer
from tests.networks import images
from tests.torch.pairs import demo, digits, pair, perturbed, save_classes
from tests.torch.trainings import QUICK, held_out, squared, trained

Array = NDArray[Any]


# Labels


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in folders by class."""
    return save_classes(tmp_path_factory.mktemp("digits"), digits().images, digits().labels)


@pytest.mark.parametrize("learn", ["original", "labels", "both"])
def test_a_spoilt_network_learns_to_read_again(classes: Path, learn: str) -> None:
    made = demo()
    spoilt = perturbed(made.converted, 0.8)
    options: dict[str, Any] = {"epochs": 2, "learning_rate": 0.01, "augment": False, "held_out": 0.3, "batch_size": 10}
    options["samples"] = 100
    result = finetune(made.original, spoilt, classes, QUICK, learn=learn, **options)
    assert result.before.accuracy is not None
    assert result.after.accuracy is not None
    assert result.before.original_accuracy is not None
    assert result.before.original_accuracy > 0.95
    assert result.before.accuracy < 0.7
    assert result.after.accuracy > result.before.accuracy + 0.2
    assert result.after.agreement == pytest.approx(result.after.accuracy, abs=0.1)
    assert result.after.loss == min(each.marks.loss for each in result.epochs)


def test_others_may_judge(classes: Path, scores: Finetuned) -> None:
    """What is trained on all samples is judged by others, in onnxruntime as well."""
    made, others = pair("scores"), images(40, 12)[8:]
    result = trained(made, validation=others, temperature=0.0)
    assert result.samples == (len(made.samples), len(others))
    assert result.best >= 1
    for model, marks in ((made.converted, result.before), (result.model, result.after)):
        assert squared(made.original, model, "x", others, "scores") == pytest.approx(marks.loss, rel=1e-3)
    more = finetune(made.original, made.converted, images(24, 12), QUICK, validation=made.samples, epochs=1)
    assert more.samples == (24, 128)  # numbers of the one would be none of the other
    with pytest.raises(CalibrationError, match="no class folders to learn labels from"):
        finetune(demo().original, demo().converted, classes, QUICK, learn="both", validation=digits().inputs)
    labelled = finetune(
        demo().original, demo().converted, digits().inputs, QUICK, validation=classes, epochs=1, samples=16
    )
    assert labelled.before.accuracy is not None


@pytest.mark.parametrize(("learn", "best"), [("original", 1), ("labels", 0), ("both", 0)])
def test_who_learns_labels_does_not_fall_behind(
    classes: Path, monkeypatch: pytest.MonkeyPatch, learn: str, best: int
) -> None:
    """A smaller loss is no gain where fewer are right than before."""
    marks = iter([Marks(2.0, 0.9, 0.9, 1.0), Marks(1.0, 0.9, 0.8, 1.0)])
    monkeypatch.setattr(Trainer, "evaluate", lambda _: next(marks))
    made = demo()
    result = finetune(made.original, made.converted, classes, QUICK, learn=learn, epochs=1, samples=20)
    assert result.best == best


def test_labels_want_class_folders() -> None:
    with pytest.raises(CalibrationError, match="no class folders to learn labels from: put the images of each class"):
        trained(pair("scores"), learn="labels")


def test_labels_want_scores_for_every_class(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (28, 12, 12, 3)).astype(np.uint8)
    folder = save_classes(tmp_path / "seven", pictures, np.arange(28) % 7)
    made = pair("scores")
    with pytest.raises(CalibrationError) as caught:
        finetune(made.original, made.converted, folder, QUICK, learn="both")
    text = f"data {folder} (28 images): 7 class folders found, output 'scores' scores 5 classes: pass `class_names="
    assert str(caught.value).startswith(text)
    maps = pair("maps")
    with pytest.raises(CalibrationError, match="its first output is no row of scores: learn without labels"):
        finetune(maps.original, maps.converted, folder, QUICK, learn="labels")
    unlabelled = finetune(made.original, made.converted, folder, QUICK, epochs=1)  # without labels it goes
    assert unlabelled.before.accuracy is None


# Images


def test_images_are_prepared_as_asked(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3)).astype(np.uint8)
    folder = save_classes(tmp_path / "images", pictures, np.zeros(40, int))
    made = pair("scores")
    options: dict[str, Any] = {"augment": False, "epochs": 1, "temperature": 0.0}
    plain = finetune(made.original, made.converted, folder, QUICK, **options)
    scaled = finetune(
        made.original, made.converted, folder, QUICK, preprocessing=preset("minus-one-one"), **options
    )  # fmt: skip
    rows = pictures[held_out(40)].transpose(0, 3, 1, 2).astype(np.float32) / 255
    for result, batch in ((plain, rows), (scaled, 2 * rows - 1)):
        wanted = squared(made.original, made.converted, "x", batch, "images")
        assert result.before.loss == pytest.approx(wanted, rel=1e-3)
    assert plain.before.loss != pytest.approx(scaled.before.loss, rel=1e-2)


@pytest.mark.parametrize("batch", ["N", "4"], ids=["open batch", "fixed batch"])
def test_damaged_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, batch: str) -> None:
    """Three of 60, wherever they come: among those trained on, and those held out."""
    pictures = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3)).astype(np.uint8)
    folder = save_classes(tmp_path / "images", pictures, np.zeros(60, int))
    first = held_out(60, fixed=1 if batch == "N" else 4)[:2]
    for number in (*first, next(number for number in range(60) if number not in held_out(60, fixed=1))):
        (folder / f"class0/{number:04}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    made = pair("scores" if batch == "N" else "fixed batch")
    with caplog.at_level(logging.WARNING, "onnx_lowrank"):
        result = finetune(made.original, made.converted, folder, QUICK)
    assert result.after.loss < result.before.loss
    assert "images that cannot be decoded are left out: class0/" in caplog.text


def test_damaged_images_do_not_judge(tmp_path: Path) -> None:
    """Neither epochs nor what onnxruntime makes of the result."""
    pictures = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3)).astype(np.uint8)
    validation = save_classes(tmp_path / "validation", pictures, np.zeros(60, int))
    for number in range(0, 60, 2):
        (validation / f"class0/{number:04}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    made = pair("scores")
    training = save_classes(tmp_path / "images", pictures[:20], np.zeros(20, int))
    options: dict[str, Any] = {"epochs": 1, "temperature": 0.0}
    result = finetune(made.original, made.converted, training, QUICK, validation=validation, **options)
    good = pictures[1::2].transpose(0, 3, 1, 2).astype(np.float32) / 255
    wanted = squared(made.original, made.converted, "x", good, "scores")
    assert result.before.loss == pytest.approx(wanted, rel=1e-3)


def test_nothing_but_damaged_images_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.png").write_bytes(b"no image")
    made = pair("scores")
    with pytest.raises(CalibrationError, match="none of the .* images tried can be decoded"):
        finetune(made.original, made.converted, folder, QUICK)
