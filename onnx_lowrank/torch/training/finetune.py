"""Fine-tuning: a converted network learns to do again what the original does.

`finetune` is the place to start reading.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from onnx_lowrank.calibrate import Preprocessing
from onnx_lowrank.graph import read_model, staged
from onnx_lowrank.runtime.progress import Progress, Silent
from onnx_lowrank.runtime.stopwatch import Stopwatch
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch.module.from_module import from_torch
from onnx_lowrank.torch.training.checkpoint import Checkpoint
from onnx_lowrank.torch.training.learning_rate import find_learning_rate
from onnx_lowrank.torch.training.objective import Marks
from onnx_lowrank.torch.training.setup import Course, prepare_course
from onnx_lowrank.version import __version__

log = logging.getLogger(__name__)

_NONE_BETTER = "no epoch was better than the network as it came, which is kept: try more data or more epochs"
_OTHERS = ", and if the original was trained on these, judge by others: `validation`"


@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples.

    Attributes:
        loss: mean over them, while they were trained on.
        marks: on the held-out samples, after it.
    """

    loss: float
    marks: Marks


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        model: the best network on the held-out samples; the one that was given if no epoch was better.
        before: marks of the network that was given.
        epochs: what happened in each.
        best: number of the best epoch, the first is 1; 0 if none was better than before.
        learning_rate: at its highest.
        samples: trained on, and held out.
        interrupted: whether it was ended by Ctrl-C.
        seconds: it took.
        process: number of the process it was run in, of those that trained together; the first is 0, and only that
            one writes.
    """

    model: onnx.ModelProto
    before: Marks
    epochs: tuple[Epoch, ...]
    best: int
    learning_rate: float
    samples: tuple[int, int]
    interrupted: bool
    seconds: float
    process: int

    @property
    def after(self) -> Marks:
        """Marks of `model`."""
        return self.epochs[self.best - 1].marks if self.best else self.before

    def save(self, path: str | Path) -> None:
        """Write the model; the file is there whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with staged(self.model, Path(path)):
            pass

    def to_dict(self) -> dict[str, Any]:
        """All but the model, for JSON, which has no numbers that are none."""
        numbers = {"samples": {"training": self.samples[0], "held_out": self.samples[1]}}
        marks = {"before": asdict(self.before), "after": asdict(self.after), "epochs": [asdict(x) for x in self.epochs]}
        rest = {name: getattr(self, name) for name in ("best", "learning_rate", "interrupted", "seconds")}
        found: dict[str, Any] = _finite({"schema": 1, "version": __version__, **numbers, **marks, **rest})
        return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


@dataclass(frozen=True, eq=False)
class _Progress:
    """How far a training has come.

    Attributes:
        rate: learning rate at its highest.
        before: marks at the start.
        epochs: those that are done.
        best: number of the best one, 0 for the start.
        weights: its.
    """

    rate: float
    before: Marks
    epochs: tuple[Epoch, ...]
    best: int
    weights: dict[str, Tensor]

    @property
    def best_marks(self) -> Marks:
        return self.epochs[self.best - 1].marks if self.best else self.before


def finetune(  # noqa: PLR0913  (the options of the command)
    original: str | Path | onnx.ModelProto,
    converted: str | Path | onnx.ModelProto,
    data: Any,
    settings: FinetuneSettings | None = None,
    *,
    validation: Any = None,
    preprocessing: Preprocessing | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Finetuned:
    """Train a converted network to do what the original does, without labels or with them.

    Under ``accelerate launch`` several processes train together, each on its part of every batch.

    Args:
        original: path of an ONNX file, or a model.
        converted: what came of it; path or model, not changed.
        data: samples to train on, as for `onnx_lowrank.convert`; those it was converted with may be among them.
        settings: how to train.
        validation: other samples to choose the best epoch by; None to hold some of ``data`` back. Those that the
            original was not trained on judge best: it knows the others by heart.
        preprocessing: of images; pixels / 255 if not given.
        checkpoint: file to keep how far it has come in, written after every epoch.
        resume: go on from ``checkpoint`` where there is one.
        progress: watches the epochs.
        **changes: fields of `FinetuneSettings` to change, as in ``finetune(a, b, data, epochs=5)``.

    Returns:
        The best network on samples that were held out, never worse there than the one given.

    Raises:
        ModelError: a model cannot be read, or cannot be turned into PyTorch.
        CalibrationError: the data cannot be used.
        OutputError: the checkpoint cannot be written, or is one of another training.
        VerificationError: onnxruntime does not get from the trained network what PyTorch does.
        ValueError: wrong settings.
    """
    watch = Stopwatch()
    chosen = replace(settings or FinetuneSettings(), **changes)
    with _threads(chosen.threads):
        course = prepare_course(original, converted, data, chosen, preprocessing, validation)
        watcher = (progress or Silent()) if course.is_first else Silent()
        done = _begun(course, Path(checkpoint) if checkpoint and resume else None)
        done, interrupted = _learn(course, done, Path(checkpoint) if checkpoint else None, watcher)
        if done.best == 0:
            course.say(logging.WARNING, _NONE_BETTER + ("" if course.lessons.unseen else _OTHERS))
        result = from_torch(done.weights, converted) if done.best else read_model(converted)
        course.verify(result, done.weights)
    return Finetuned(
        model=result,
        before=done.before,
        epochs=done.epochs,
        best=done.best,
        learning_rate=done.rate,
        samples=(len(course.lessons.training), len(course.lessons.held_out)),
        interrupted=interrupted,
        seconds=watch.seconds(())["total"],
        process=course.lessons.share.rank,
    )


def _begun(course: Course, checkpoint: Path | None) -> _Progress:
    """Where to start from: a checkpoint, or the beginning."""
    trainer = course.trainer
    if checkpoint is not None and checkpoint.exists():
        saved = Checkpoint.read(checkpoint)
        course.check_same(saved.notes["course"], checkpoint)
        trainer.set_state(saved.state)
        trainer.set_momentum(saved.momentum)
        epochs = tuple(Epoch(each["loss"], Marks(**each["marks"])) for each in saved.notes["epochs"])
        course.say(logging.INFO, f"going on after epoch {len(epochs)} of {checkpoint}")
        best = saved.notes["best"]
        return _Progress(saved.notes["rate"], Marks(**saved.notes["before"]), epochs, best, dict(saved.best))
    before = trainer.marks()
    course.say(logging.INFO, f"before: {before}")
    rate = course.settings.learning_rate
    if rate is None:
        rate = find_learning_rate(trainer, course.lessons, course.settings.epochs * course.lessons.steps)
        course.say(logging.INFO, f"learning rate: {rate:.2g}, found by trying")
    return _Progress(rate, before, (), 0, trainer.weights())


def _learn(course: Course, done: _Progress, checkpoint: Path | None, progress: Progress) -> tuple[_Progress, bool]:
    """All epochs that are left; and whether Ctrl-C ended them."""
    settings, lessons, trainer = course.settings, course.lessons, course.trainer
    steps = lessons.steps
    try:
        for number in range(len(done.epochs), settings.epochs):
            if _is_over(done, settings):
                break
            stage = f"epoch {number + 1}/{settings.epochs} (best so far: {done.best_marks})"
            batches = progress.track(lessons.epoch(number), stage, steps)
            loss = trainer.train(batches, done.rate, number * steps, settings.epochs * steps)
            epoch = Epoch(loss, trainer.marks())
            course.say(logging.INFO, f"epoch {number + 1}: loss {loss:.4g}; held out: {epoch.marks}")
            better = epoch.marks.better_than(done.best_marks)
            if settings.learn != "original":
                better &= not epoch.marks.falls_behind(done.before)
            best, weights = (number + 1, trainer.weights()) if better else (done.best, done.weights)
            done = replace(done, epochs=(*done.epochs, epoch), best=best, weights=weights)
            if checkpoint is not None and course.is_first:
                _saved(course, done).write(checkpoint)
            if not isfinite(loss):
                course.say(logging.WARNING, "the loss is no number any more: try a lower learning rate")
    except KeyboardInterrupt:
        if not done.epochs:
            raise
        return done, True
    return done, False


def _is_over(done: _Progress, settings: FinetuneSettings) -> bool:
    """Whether more epochs are of no use: there is no loss any more, or no progress for too long."""
    if done.epochs and not isfinite(done.epochs[-1].loss):
        return True
    return settings.patience is not None and len(done.epochs) - done.best >= settings.patience


def _saved(course: Course, done: _Progress) -> Checkpoint:
    notes = {
        "course": course.identity(),
        "rate": done.rate,
        "before": asdict(done.before),
        "epochs": [asdict(each) for each in done.epochs],
        "best": done.best,
    }
    return Checkpoint(course.trainer.state(), course.trainer.momentum(), done.weights, notes)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Have PyTorch take this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
