"""How close one model's outputs are to another's, and how often both are right."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.verify.cached_session import Runnable
from onnx_lowrank.verify.examples import ExampleKeeper, ExamplePrediction, is_scores

log = logging.getLogger(__name__)

Batch = Mapping[str, NDArray[Any]]
_TOP = (1, 5)


@dataclass(frozen=True)
class OutputFidelity:
    """One output of model B beside that of model A.

    Attributes:
        relative_error: ``||A - B||_F / ||A||_F`` over all images, where A is finite; infinite where B is not.
        cosine: cosine of the angle between A and B, all images as one vector.
        agreement: share of images with the same argmax over the last axis; None where the output is no row of scores.
    """

    relative_error: float
    cosine: float
    agreement: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Its fields; None for an infinite error, which JSON does not know."""
        return {**vars(self), "relative_error": self.relative_error if np.isfinite(self.relative_error) else None}


@dataclass(frozen=True)
class Accuracy:
    """Share of images classified right, of model A and of model B."""

    top1: tuple[float, float]
    top5: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """What `compare_outputs` found.

    Attributes:
        outputs: fidelity by output name.
        accuracy: of both models; None without labels.
        images: number of images looked at.
        samples: some of them, as pictures, where they were asked for; disagreements first.
    """

    outputs: dict[str, OutputFidelity]
    accuracy: Accuracy | None
    images: int
    samples: tuple[ExamplePrediction, ...] = field(default=(), compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``compare --json``."""
        return {
            "outputs": {name: fidelity.to_dict() for name, fidelity in self.outputs.items()},
            "accuracy": None
            if self.accuracy is None
            else {key: list(pair) for key, pair in vars(self.accuracy).items()},
            "images": self.images,
        }


class _Tally:
    """Running sums over batches for one output."""

    def __init__(self) -> None:
        self.difference = self.product = self.first = self.second = 0.0
        self.same = self.rows = self.compared = self.left_out = 0
        self.scores = True

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        self.scores &= is_scores(a)
        if self.scores:
            self.same += int((a.argmax(-1) == b.argmax(-1)).sum())
        self.rows += len(a) if a.ndim else 1
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        finite = np.isfinite(x)
        self.compared += int(finite.sum())
        self.left_out += int((~finite).sum())
        # Where A is finite B has to be, too; where it is not, there is no distance from it.
        x, y = x[finite], np.where(np.isfinite(y), y, np.inf)[finite]
        with np.errstate(all="ignore"):
            self.difference += float(np.square(x - y).sum())
            self.product += float(x @ y)
            self.first += float(x @ x)
            self.second += float(y @ y)

    def result(self, name: str) -> OutputFidelity:
        if self.left_out:
            if not self.compared:
                raise ModelError(
                    f"output '{name}': nothing but NaN or infinity comes out of the original network: "
                    "check its weights and the preprocessing of the data"
                )
            log.warning(
                "output '%s': %d of %d numbers are NaN or infinite in the original network and are not compared",
                name, self.left_out, self.left_out + self.compared,
            )  # fmt: skip
        if not np.isfinite(self.difference):
            return OutputFidelity(np.inf, 0.0, self.same / self.rows if self.scores else None)
        zero = self.first == 0
        error = (0.0 if self.difference == 0 else np.inf) if zero else np.sqrt(self.difference / self.first)
        size = np.sqrt(self.first * self.second)
        cosine = self.product / size if size else float(self.first == self.second)
        return OutputFidelity(float(error), float(cosine), self.same / self.rows if self.scores else None)


def compare_outputs(
    a: Runnable, b: Runnable, batches: Iterable[Batch], labels: NDArray[np.int64] | None = None, pictures: int = 0
) -> Comparison:
    """Run two models on the same inputs and compare every output of numbers that they share.

    Outputs whose shape differs, as the number of objects found may, are left out and named in a warning.

    Args:
        a: the reference.
        b: the model to judge.
        batches: inputs by name.
        labels: class of each image in order, shape (images,); judged on the first output.
        pictures: images to keep with the predictions of both models, at most; of classifiers only.

    Raises:
        ModelError: no output to compare, one that is NaN or infinite all over in A, or labels for an output that is no
            row of scores.
    """
    shared = [name for name in a.numeric_outputs if name in b.numeric_outputs]
    if not shared:
        raise ModelError(f"compare: no output of numbers in common: {', '.join(a.outputs)} and {', '.join(b.outputs)}")
    tallies = {name: _Tally() for name in shared}
    hits: list[NDArray[np.bool_]] = []
    keeper, images = ExampleKeeper(pictures), 0
    for batch in batches:
        ours, theirs = a.run(batch), b.run(batch)
        for name in [name for name in tallies if ours[name].shape != theirs[name].shape]:
            log.warning(
                "output '%s': shape %s and %s: it is not compared", name, ours[name].shape, theirs[name].shape
            )  # fmt: skip
            del tallies[name]
        for name, tally in tallies.items():
            tally.add(ours[name], theirs[name])
        if pictures and (scores := next((name for name in tallies if is_scores(ours[name])), None)):
            keeper.look(batch, ours[scores], theirs[scores])
        count = len(next(iter(batch.values())))
        if labels is not None:
            truth = labels[images : images + count]
            hits.append(np.stack([top_hits(output[shared[0]], truth, shared[0]) for output in (ours, theirs)]))
        images += count
    if not tallies:
        raise ModelError(f"compare: no output has the same shape in both models: {', '.join(shared)}")
    fidelities = {name: tally.result(name) for name, tally in tallies.items()}
    return Comparison(fidelities, _accuracy(hits), images, keeper.samples)


def top_hits(scores: NDArray[Any], truth: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    """Whether the true class is among the best 1 and 5.

    Args:
        scores: shape (images, classes).
        truth: class of each image, shape (images,).
        name: of the output, for the message.

    Returns:
        Shape (2, images).

    Raises:
        ModelError: these are no scores of so many classes.
    """
    if scores.ndim != 2 or scores.shape[1] <= truth.max():
        raise ModelError(
            f"output '{name}': shape {scores.shape} does not score {truth.max() + 1} classes: compare without `labels`"
        )
    ranked = np.argsort(-scores, axis=1, kind="stable")
    return np.stack([(ranked[:, :top] == truth[:, None]).any(axis=1) for top in _TOP])


def _accuracy(hits: Sequence[NDArray[np.bool_]]) -> Accuracy | None:
    if not hits:
        return None
    (a1, a5), (b1, b5) = np.concatenate(hits, axis=2).mean(axis=2)
    return Accuracy((float(a1), float(b1)), (float(a5), float(b5)))
