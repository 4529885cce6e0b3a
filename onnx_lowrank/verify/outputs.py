"""The outputs of two models compared: how close they are, and how accurate both models are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.metrics import Measured
from onnx_lowrank.verify.cached_session import Runnable
from onnx_lowrank.verify.examples import ExampleKeeper, ExamplePrediction, is_scores, scores_images
from onnx_lowrank.verify.finite_values import finite_values
from onnx_lowrank.verify.found_objects import FoundObjects
from onnx_lowrank.verify.intervals import is_guessed
from onnx_lowrank.verify.output_kinds import KindFidelity, KindSums

log = logging.getLogger(__name__)

Batch = Mapping[str, NDArray[Any]]
_TOP = (1, 5)


@dataclass(frozen=True)
class OutputFidelity:
    """How close an output of model B is to that of model A.

    Attributes:
        relative_error: ``||A - B||_F / ||A||_F`` over all images and all finite values of A; infinite if B is NaN or
            infinite at any of them.
        cosine: cosine of the angle between A and B, with all images as one vector.
        agreement: share of images with the same argmax over the last axis; None unless the output scores classes of
            every image.
        of_kind: how close it is by the measure of its kind, see `onnx_lowrank.verify.output_kinds`; None where it is
            of none of them, or B is NaN or infinite.
    """

    relative_error: float
    cosine: float
    agreement: float | None
    of_kind: KindFidelity | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, with None for an infinite error, which JSON cannot hold."""
        return {
            "relative_error": self.relative_error if np.isfinite(self.relative_error) else None,
            "cosine": self.cosine,
            "agreement": self.agreement,
            **({} if self.of_kind is None else self.of_kind.to_dict()),
        }


@dataclass(frozen=True)
class Accuracy:
    """Share of images that are classified correctly.

    Attributes:
        top1: the true class has the highest score; of model A and of model B.
        top5: the true class is among the five highest scores; of model A and of model B.
    """

    top1: tuple[float, float]
    top5: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_outputs`.

    Attributes:
        outputs: fidelity by output name.
        accuracy: of both models; None without labels.
        images: number of images.
        samples: some of the images with both predictions, if requested; disagreements first.
        random: outputs that differ from run to run of one model, so that their fidelity says nothing of the other.
        metric: of both models; None where none was asked for.
    """

    outputs: dict[str, OutputFidelity]
    accuracy: Accuracy | None
    images: int
    samples: tuple[ExamplePrediction, ...] = field(default=(), compare=False, repr=False)
    random: frozenset[str] = frozenset()
    metric: Measured | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the JSON that the command ``compare`` prints."""
        return {
            "outputs": {name: fidelity.to_dict() for name, fidelity in self.outputs.items()},
            "accuracy": None
            if self.accuracy is None
            else {key: list(pair) for key, pair in vars(self.accuracy).items()},
            "images": self.images,
            **({} if self.metric is None else {"metric": self.metric.to_dict()}),
        }


class _OutputSums:
    """Running sums over batches for one output."""

    def __init__(self) -> None:
        self.difference = self.product = self.first = self.second = 0.0  # squares and products of finite values
        self.same = self.rows = self.compared = self.left_out = 0
        self.scores, self.joined = True, False
        self.kinds = KindSums()

    def add(self, a: NDArray[Any], b: NDArray[Any], images: int) -> None:
        self.joined |= is_scores(a) and 0 < len(a) < images  # a row holds the scores of several images
        self.scores &= is_scores(a) and not self.joined
        if self.scores:
            self.same += int((a.argmax(-1) == b.argmax(-1)).sum())
        self.rows += len(a) if a.ndim else 1
        self.kinds.add(a, b, images)
        x, y, finite = finite_values(a.ravel(), b.ravel())
        self.compared += int(finite.sum())
        self.left_out += int((~finite).sum())
        x, y = x[finite], y[finite]
        with np.errstate(all="ignore"):
            self.difference += float(np.square(x - y).sum())
            self.product += float(x @ y)
            self.first += float(x @ x)
            self.second += float(y @ y)

    @property
    def numbers(self) -> int:
        """How many numbers the output of the reference had, of all batches."""
        return self.compared + self.left_out

    def result(self, name: str) -> OutputFidelity:
        if self.left_out:
            if not self.compared:
                raise ModelError(
                    f"output '{name}': nothing but NaN or infinity comes out of the original network: "
                    "check its weights and the preprocessing of the data"
                )
            log.warning(
                "output '%s': %d of %d numbers are NaN or infinite in the original network and are not compared",
                name, self.left_out, self.numbers,
            )  # fmt: skip
        if self.joined:
            log.info("output '%s': its rows hold several images each: it is not compared by class", name)
        agreement = self.same / self.rows if self.scores and self.rows else None
        if not np.isfinite(self.difference):
            return OutputFidelity(np.inf, 0.0, agreement)
        size = np.sqrt(self.first * self.second)
        cosine = self.product / size if size else float(self.first == self.second)
        error = relative_error(self.difference, self.first)
        return OutputFidelity(error, float(cosine), agreement, self.kinds.result())


def compare_outputs(
    a: Runnable, b: Runnable, batches: Iterable[Batch], labels: NDArray[np.int64] | None = None, pictures: int = 0
) -> Comparison:
    """Run two models on the same inputs and compare every numeric output that they share.

    Outputs whose shapes differ, such as those with one row per detected object, are left out with a warning. So are
    those of text, sequences or maps, and those that are empty for all images, such as the objects in images without
    any.

    Args:
        a: the reference.
        b: the model to compare with it.
        batches: inputs by name, first axis = images.
        labels: class of each image in order, shape (images,), for the first shared output that scores classes; None
            for no accuracy.
        pictures: images to keep with the predictions of both models, at most; only if an output scores classes.

    Raises:
        ModelError: no output can be compared, an output of A is NaN or infinite everywhere, or there are labels for an
            output that does not score classes.
    """
    shared = [name for name in a.numeric_outputs if name in b.numeric_outputs]
    if not shared:
        raise ModelError(f"compare: no output of numbers in common: {', '.join(a.outputs)} and {', '.join(b.outputs)}")
    if others := [name for name in a.outputs if name not in shared]:
        log.info("not compared, since they are no tensors of numbers in both models: %s", ", ".join(others))
    sums = {name: _OutputSums() for name in shared}
    hits: list[NDArray[np.bool_]] = []
    keeper, objects, images, classes = ExampleKeeper(pictures), FoundObjects(), 0, 0
    for batch in batches:
        ours, theirs = a.run(batch), b.run(batch)
        count = len(next(iter(batch.values())))
        for name in [name for name in sums if ours[name].shape != theirs[name].shape]:
            log.warning(
                "output '%s': shape %s and %s: it is not compared", name, ours[name].shape, theirs[name].shape
            )  # fmt: skip
            del sums[name]
        for name, output in sums.items():
            output.add(ours[name], theirs[name], count)
        objects.add({name: ours[name] for name in sums}, theirs, batch)
        if pictures and (scores := next((name for name in sums if scores_images(ours[name], count)), None)):
            keeper.add(batch, ours[scores], theirs[scores])
        if labels is not None:
            truth = labels[images : images + count]
            judged = next((name for name in sums if is_scores(ours[name])), shared[0])
            hits.append(np.stack([top_hits(outputs[judged], truth, judged) for outputs in (ours, theirs)]))
            classes = ours[judged].shape[1]
        images += count
    if not sums:
        raise ModelError(f"compare: no output has the same shape in both models: {', '.join(shared)}")
    empty = [name for name, output in sums.items() if not output.numbers]
    for name in empty:
        log.warning("output '%s': it has no rows on any of %d images: it is not compared", name, images)
    fidelities = {name: output.result(name) for name, output in sums.items() if name not in empty}
    for name, found in objects.fidelities().items():
        if name in fidelities and np.isfinite(fidelities[name].relative_error):
            fidelities[name] = replace(fidelities[name], of_kind=found)
    accuracy = _accuracy(hits)
    if accuracy is not None:
        warn_if_guessed(accuracy.top1[0], images, classes)
    return Comparison(fidelities, accuracy, images, keeper.samples)


def warn_if_guessed(top1: float, images: int, classes: int) -> None:
    """Warn where the original is no better than guessing: a sign of labels or preprocessing that are not its own.

    Args:
        top1: share of the images that it has right.
        images: their number.
        classes: how many there are.
    """
    if is_guessed(round(top1 * images), images, classes):
        log.warning(
            "top-1 of the original is %.2f%% on %d images, near the %.2g%% of guessing among %d classes: check the "
            "preprocessing, and that classes are in the order of its scores (`class_names`)",
            100 * top1, images, 100 / classes, classes,
        )  # fmt: skip


def scored_classes(model: Runnable, batch: Batch) -> tuple[int, str] | None:
    """Return how many classes a model scores, and the output that does; None where none does.

    Args:
        model: runs it.
        batch: inputs by name, first axis = images.
    """
    outputs = model.run(batch)
    name = next((name for name in model.numeric_outputs if is_scores(outputs[name])), None)
    return None if name is None else (outputs[name].shape[1], name)


def top_hits(scores: NDArray[Any], truth: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    """Return whether the true class is among the 1 and the 5 highest scores.

    Args:
        scores: shape (images, classes).
        truth: class of each image, shape (images,).
        name: name of the output, for the message.

    Returns:
        Shape (2, images): top-1, then top-5.

    Raises:
        ModelError: the output does not score that many classes.
    """
    if scores.ndim != 2 or scores.shape[1] <= truth.max():
        raise ModelError(
            f"output '{name}': shape {scores.shape} does not score {truth.max() + 1} classes: compare without `labels`"
        )
    if len(scores) != len(truth):
        raise ModelError(f"output '{name}': {len(scores)} rows of scores for {len(truth)} images: leave `labels` out")
    ranked = np.argsort(-scores, axis=1, kind="stable")
    return np.stack([(ranked[:, :top] == truth[:, None]).any(axis=1) for top in _TOP])


def _accuracy(hits: Sequence[NDArray[np.bool_]]) -> Accuracy | None:
    if not hits:
        return None
    (a1, a5), (b1, b5) = np.concatenate(hits, axis=2).mean(axis=2)
    return Accuracy((float(a1), float(b1)), (float(a5), float(b5)))
