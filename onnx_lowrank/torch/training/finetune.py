"""`finetune`: train a converted network to do what the original does."""

from __future__ import annotations

import logging
import signal
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from onnx_lowrank import interruption
from onnx_lowrank.calibrate import Preprocessing
from onnx_lowrank.graph import read_model
from onnx_lowrank.runtime.progress import Progress, Silent
from onnx_lowrank.runtime.stopwatch import Stopwatch
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch.module.from_module import from_torch
from onnx_lowrank.torch.threads import torch_threads
from onnx_lowrank.torch.training.checkpoint import Checkpoint
from onnx_lowrank.torch.training.dataset import MAX_HELD_OUT
from onnx_lowrank.torch.training.learning_rate import find_learning_rate
from onnx_lowrank.torch.training.objective import Metrics
from onnx_lowrank.torch.training.result import Epoch, Finetuned, best_metrics
from onnx_lowrank.torch.training.setup import Distillation, prepare_distillation
from onnx_lowrank.verify.outputs import warn_if_guessed

_NONE_BETTER = "no epoch was better than the network as it came, which is kept: try more data or more epochs"
_USE_VALIDATION = ", and if the original was trained or the result calibrated on these, judge by others: `validation`"


@dataclass(frozen=True, eq=False)
class _State:
    """The state of a training between two epochs.

    Attributes:
        rate: peak learning rate.
        before: metrics at the start.
        epochs: finished epochs.
        best: number of the best one, 0 for the start.
        weights: of the best epoch.
    """

    rate: float
    before: Metrics
    epochs: tuple[Epoch, ...]
    best: int
    weights: dict[str, Tensor]

    @property
    def best_metrics(self) -> Metrics:
        return best_metrics(self.before, self.epochs, self.best)


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
        converted: its conversion; path or model, not changed.
        data: samples to train on, as for `onnx_lowrank.convert`; may contain those of the conversion.
        settings: how to train.
        validation: other samples to choose the best epoch by; None to hold out some of ``data``. Samples that the
            original was not trained on serve best: it knows the others by heart.
        preprocessing: of images; pixels / 255 if not given.
        checkpoint: file for the state of the training, written after every epoch.
        resume: continue from ``checkpoint`` if the file exists.
        progress: follows the epochs.
        **changes: fields of `FinetuneSettings` to change, as in ``finetune(a, b, data, epochs=5)``.

    Returns:
        The best network on held-out samples, never worse there than the given one.

    Raises:
        ModelError: a model cannot be read, or cannot be turned into PyTorch.
        CalibrationError: the data cannot be used.
        OutputError: the checkpoint cannot be written, or belongs to another training.
        VerificationError: onnxruntime does not compute from the trained network what PyTorch does.
        ValueError: a setting is out of its range.
    """
    stopwatch = Stopwatch()
    chosen = replace(settings or FinetuneSettings(), **changes)
    path = Path(checkpoint) if checkpoint else None
    with torch_threads(chosen.threads):
        distillation = prepare_distillation(original, converted, data, chosen, preprocessing, validation)
        watcher = (progress or Silent()) if distillation.is_main_process else Silent()
        state = _resumed(distillation, path) if resume and path and path.exists() else _started(distillation)
        state, interrupted = _train(distillation, state, path, watcher)
        if state.best == 0:
            advice = "" if distillation.dataset.has_own_validation else _USE_VALIDATION
            distillation.log_once(logging.WARNING, _NONE_BETTER + advice)
        model = from_torch(state.weights, converted) if state.best else read_model(converted)
        distillation.verify(model, state.weights)
        judge = distillation.judge
        metric = None if judge is None else judge.measure(state.weights)
    return Finetuned(
        model=model,
        before=state.before,
        epochs=state.epochs,
        best=state.best,
        learning_rate=state.rate,
        samples=(len(distillation.dataset.training), len(distillation.dataset.held_out)),
        interrupted=interrupted,
        seconds=stopwatch.seconds(())["total"],
        process=distillation.dataset.shard.rank,
        metric=metric,
    )


def _started(distillation: Distillation) -> _State:
    """Evaluate the network as given, and find a learning rate if none is set."""
    trainer, dataset, settings = distillation.trainer, distillation.dataset, distillation.settings
    before = distillation.evaluate()
    distillation.log_once(logging.INFO, f"before: {before}")
    if before.original_accuracy is not None and distillation.is_main_process:
        warn_if_guessed(before.original_accuracy, min(len(dataset.held_out), MAX_HELD_OUT), dataset.classes)
    rate = settings.learning_rate
    if rate is None:
        rate = find_learning_rate(trainer, dataset, settings.epochs * dataset.steps)
        distillation.log_once(logging.INFO, f"learning rate: {rate:.2g}, found by trying")
    return _State(rate, before, (), 0, trainer.weights())


def _train(
    distillation: Distillation, state: _State, checkpoint: Path | None, progress: Progress
) -> tuple[_State, bool]:
    """Train all remaining epochs; return the final state, and whether Ctrl-C ended the training."""
    settings = distillation.settings
    try:
        while len(state.epochs) < settings.epochs and not _is_over(state, settings):
            state = _next_epoch(distillation, state, progress)
            interruption.be_patient()  # there is something to write now
            if checkpoint is not None and distillation.is_main_process:
                _checkpoint(distillation, state).write(checkpoint)
            if not isfinite(state.epochs[-1].loss):
                distillation.log_once(logging.WARNING, "the loss is no number any more: try a lower learning rate")
    except KeyboardInterrupt as error:
        is_terminated = isinstance(error, interruption.Interrupted) and error.number == signal.SIGTERM
        if not state.epochs or is_terminated:  # there may be no time to write; the checkpoint stays
            raise
        interruption.acknowledge()
        return state, True
    return state, False


def _next_epoch(distillation: Distillation, state: _State, progress: Progress) -> _State:
    """Train and evaluate one epoch."""
    settings, dataset, trainer = distillation.settings, distillation.dataset, distillation.trainer
    done = len(state.epochs)
    stage = f"epoch {done + 1}/{settings.epochs} (best so far: {state.best_metrics})"
    batches = progress.track(dataset.epoch(done), stage, dataset.steps)
    loss = trainer.train(batches, state.rate, done * dataset.steps, settings.epochs * dataset.steps)
    metrics = distillation.evaluate()
    distillation.log_once(logging.INFO, f"epoch {done + 1}: loss {loss:.4g}; held out: {metrics}")
    is_better = metrics.better_than(state.best_metrics)
    if settings.learn != "original":
        is_better &= not metrics.falls_behind(state.before)
    best, weights = (done + 1, trainer.weights()) if is_better else (state.best, state.weights)
    return replace(state, epochs=(*state.epochs, Epoch(loss, metrics)), best=best, weights=weights)


def _is_over(state: _State, settings: FinetuneSettings) -> bool:
    """Whether further epochs are useless: the loss is not finite, or patience has run out."""
    if state.epochs and not isfinite(state.epochs[-1].loss):
        return True
    return settings.patience is not None and len(state.epochs) - state.best >= settings.patience


def _checkpoint(distillation: Distillation, state: _State) -> Checkpoint:
    """Return the checkpoint of a state. Its keys are a file format: older files must stay readable."""
    notes = {
        "course": distillation.identity(),
        "rate": state.rate,
        "before": asdict(state.before),
        "epochs": [asdict(epoch) for epoch in state.epochs],
        "best": state.best,
    }
    return Checkpoint(distillation.trainer.state(), distillation.trainer.momentum(), state.weights, notes)


def _resumed(distillation: Distillation, checkpoint: Path) -> _State:
    """Restore the state that `_checkpoint` saved."""
    saved = Checkpoint.read(checkpoint)
    notes = saved.notes
    distillation.check_same(notes["course"], checkpoint)
    distillation.trainer.set_state(saved.state)
    distillation.trainer.set_momentum(saved.momentum)
    epochs = tuple(Epoch(epoch["loss"], Metrics(**epoch["marks"])) for epoch in notes["epochs"])
    distillation.log_once(logging.INFO, f"going on after epoch {len(epochs)} of {checkpoint}")
    return _State(notes["rate"], Metrics(**notes["before"]), epochs, notes["best"], dict(saved.best))
