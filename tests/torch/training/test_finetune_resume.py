"""Fine-tuning that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank.calibrate import preset
from onnx_lowrank.errors import OutputError
from onnx_lowrank.runtime.progress import Item
from onnx_lowrank.torch import Finetuned, finetune
from onnx_lowrank.torch.training.checkpoint import Checkpoint
from tests.torch.pairs import pair, perturbed, save_classes
from tests.torch.trainings import QUICK, assert_same_weights, held_out, scripted, squared, trained

Array = NDArray[Any]


class Stop:
    """Counts stages; Ctrl-C in the middle of one of them."""

    def __init__(self, epoch: int) -> None:
        self.stages: list[tuple[str, int]] = []
        self._left = epoch

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        self.stages.append((stage, total))
        self._left -= 1
        for number, item in enumerate(items):
            if not self._left and number == total // 2:
                raise KeyboardInterrupt
            yield item


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finetuned]:
    """Stopped in the middle of its second epoch: a checkpoint, and what came of it."""
    path = tmp_path_factory.mktemp("checkpoint") / "x.checkpoint"
    stop = Stop(2)
    result = trained(pair("scores"), checkpoint=path, progress=stop)
    assert [stage.partition(" (")[0] for stage, _ in stop.stages] == ["epoch 1/3", "epoch 2/3"]
    assert {total for _, total in stop.stages} == {102 // 16}
    return path, result


def copied(path: Path, folder: Path) -> Path:
    (folder / path.name).write_bytes(path.read_bytes())
    return folder / path.name


def test_ctrl_c_keeps_what_there_is(interrupted: tuple[Path, Finetuned], scores: Finetuned) -> None:
    path, result = interrupted
    assert (result.interrupted, len(result.epochs), result.best) == (True, 1, 1)
    assert result.epochs == scores.epochs[:1]
    assert result.after.loss < result.before.loss
    assert list(path.parent.iterdir()) == [path]
    made = pair("scores")
    found = squared_scores(result.model)
    assert found < squared_scores(made.converted)


def squared_scores(model: onnx.ModelProto) -> float:
    made = pair("scores")
    return squared(made.original, model, "x", made.samples[held_out(128)], "scores")


def test_going_on_ends_where_no_interruption_does(
    interrupted: tuple[Path, Finetuned], scores: Finetuned, tmp_path: Path
) -> None:
    watched = Stop(0)
    again = trained(pair("scores"), checkpoint=copied(interrupted[0], tmp_path), resume=True, progress=watched)
    assert [stage.partition(" (")[0] for stage, _ in watched.stages] == ["epoch 2/3", "epoch 3/3"]
    assert_same_weights(again.model, scores.model)
    assert (again.epochs, again.best, again.before) == (scores.epochs, scores.best, scores.before)
    assert again.learning_rate == scores.learning_rate


def test_a_rate_that_was_found_is_not_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = pair("scores"), tmp_path / "x.checkpoint"
    whole = trained(made, learning_rate=None)
    trained(made, learning_rate=None, checkpoint=path, progress=Stop(2))
    monkeypatch.delattr("onnx_lowrank.torch.training.finetune.find_learning_rate")
    again = trained(made, learning_rate=None, checkpoint=path, resume=True)
    assert_same_weights(again.model, whole.model)
    assert again.learning_rate == whole.learning_rate


def test_the_best_epoch_outlives_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = pair("maps"), tmp_path / "x.checkpoint"
    scripted(monkeypatch, [5, 1, 3, 4])
    stopped = trained(made, epochs=4, checkpoint=path, progress=Stop(3))
    scripted(monkeypatch, [3, 4])
    again = trained(made, epochs=4, checkpoint=path, resume=True)
    assert (stopped.best, again.best, len(again.epochs)) == (1, 1, 4)
    assert_same_weights(again.model, stopped.model)


def test_a_training_that_was_over_stays_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk was full in the end: patience had run out, and what is done need not be done again."""
    made, path = pair("maps"), tmp_path / "x.checkpoint"
    scripted(monkeypatch, [5, 4, 6])
    first = trained(made, epochs=4, patience=1, checkpoint=path)
    assert len(first.epochs) == 2
    watched = Stop(0)
    scripted(monkeypatch, [3, 3])
    again = trained(made, epochs=4, patience=1, checkpoint=path, resume=True, progress=watched)
    assert watched.stages == []
    assert again.epochs == first.epochs
    assert_same_weights(again.model, first.model)


def test_without_a_checkpoint_it_starts_over(scores: Finetuned, tmp_path: Path) -> None:
    again = trained(pair("scores"), checkpoint=tmp_path / "none.checkpoint", resume=True)
    assert_same_weights(again.model, scores.model)


def test_without_resume_a_checkpoint_is_not_looked_at(scores: Finetuned, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no checkpoint")
    again = trained(pair("scores"), checkpoint=tmp_path / "x")
    assert_same_weights(again.model, scores.model)


def test_what_a_killed_process_left_half_written_is_no_checkpoint(
    interrupted: tuple[Path, Finetuned], scores: Finetuned, tmp_path: Path
) -> None:
    path = tmp_path / "x.checkpoint"
    (tmp_path / ".x.checkpoint.tmp").write_bytes(interrupted[0].read_bytes()[:5000])
    again = trained(pair("scores"), checkpoint=path, resume=True)
    assert_same_weights(again.model, scores.model)


OTHER: dict[str, dict[str, Any]] = {
    "epochs": {"epochs": 4},
    "batch_size": {"batch_size": 8},
    "learning_rate": {"learning_rate": 0.02},
    "temperature": {"temperature": 1.0},
    "match": {"match": 1.0},
    "augment": {"augment": False},
    "samples": {"samples": 100},
    "held_out": {"held_out": 0.3},
    "patience": {"patience": 2},
    "seed": {"seed": 1},
    "precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_other_options_is_refused(
    interrupted: tuple[Path, Finetuned], tmp_path: Path, name: str
) -> None:
    path = copied(interrupted[0], tmp_path)
    content = path.read_bytes()
    old, new = getattr(QUICK, name), OTHER[name][name]
    with pytest.raises(OutputError) as caught:
        trained(pair("scores"), checkpoint=path, resume=True, **OTHER[name])
    assert str(caught.value) == (
        f"{path}: checkpoint of another training ({name}: {old} there, {new} here): start without `resume`, or go on "
        "with the same options"
    )
    assert path.read_bytes() == content


CHANGED = ["converted", "original", "samples", "preprocessing"]


@pytest.mark.parametrize("what", CHANGED)
def test_a_checkpoint_of_other_networks_or_data_is_refused(
    interrupted: tuple[Path, Finetuned], tmp_path: Path, what: str
) -> None:
    made, path = pair("scores"), copied(interrupted[0], tmp_path)
    words: dict[str, Any] = {"original": made.original, "converted": made.converted, "data": made.samples}
    if what == "samples":
        words["data"] = made.samples[:-1]
    elif what == "preprocessing":
        words["preprocessing"] = preset("imagenet")
    else:
        words[what] = perturbed(words[what], 0.1)
    if what == "preprocessing":
        pictures = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3)).astype(np.uint8)
        words["data"] = save_classes(tmp_path / "images", pictures, np.zeros(60, int))
        plain = {**words, "preprocessing": preset("raw")}
        finetune(**plain, settings=QUICK, checkpoint=path, progress=Stop(2))
    with pytest.raises(OutputError, match="checkpoint of another training"):
        finetune(**words, settings=QUICK, checkpoint=path, resume=True)


def test_where_it_runs_may_change(interrupted: tuple[Path, Finetuned], tmp_path: Path) -> None:
    path = copied(interrupted[0], tmp_path)
    again = trained(pair("scores"), checkpoint=path, resume=True, threads=2, provider="auto")
    assert len(again.epochs) == 3


def test_ctrl_c_before_the_first_epoch_is_over_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(pair("scores"), checkpoint=tmp_path / "x.checkpoint", progress=Stop(1))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_checkpoint_is_written_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "x.checkpoint", Checkpoint.write
    calls = []

    def write(self: Any, where: Path) -> None:
        calls.append(where)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, where)

    monkeypatch.setattr(Checkpoint, "write", write)
    result = trained(pair("scores"), checkpoint=path)
    assert (result.interrupted, len(result.epochs)) == (True, 2)


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="x.checkpoint: cannot be written"):
        trained(pair("maps"), checkpoint=tmp_path / "none" / "x.checkpoint")
