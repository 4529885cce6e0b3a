"""How close one model's outputs are to another's, and how often both are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime import Session

Batch = Mapping[str, NDArray[Any]]
_TOP = (1, 5)


@dataclass(frozen=True)
class OutputFidelity:
    """One output of model B beside that of model A.

    Attributes:
        relative_error: ``||A - B||_F / ||A||_F`` over all images.
        cosine: cosine of the angle between A and B, all images as one vector.
        agreement: share of images with the same argmax over the last axis; None where the output is no row of scores.
    """

    relative_error: float
    cosine: float
    agreement: float | None


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
    """

    outputs: dict[str, OutputFidelity]
    accuracy: Accuracy | None
    images: int

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``compare --json``."""
        return {
            "outputs": {name: vars(fidelity) for name, fidelity in self.outputs.items()},
            "accuracy": None
            if self.accuracy is None
            else {key: list(pair) for key, pair in vars(self.accuracy).items()},
            "images": self.images,
        }


class _Tally:
    """Running sums over batches for one output."""

    def __init__(self) -> None:
        self.difference = self.product = self.first = self.second = 0.0
        self.same = self.rows = 0
        self.scores = True

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        self.scores &= a.ndim == 2 and a.shape[-1] > 1 and np.issubdtype(a.dtype, np.floating)
        if self.scores:
            self.same += int((a.argmax(-1) == b.argmax(-1)).sum())
        self.rows += len(a) if a.ndim else 1
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        self.difference += float(np.square(x - y).sum())
        self.product += float(x @ y)
        self.first += float(x @ x)
        self.second += float(y @ y)

    def result(self) -> OutputFidelity:
        zero = self.first == 0
        error = (0.0 if self.difference == 0 else np.inf) if zero else np.sqrt(self.difference / self.first)
        size = np.sqrt(self.first * self.second)
        cosine = self.product / size if size else float(self.first == self.second)
        return OutputFidelity(float(error), float(cosine), self.same / self.rows if self.scores else None)


def compare_outputs(
    a: Session, b: Session, batches: Iterable[Batch], labels: NDArray[np.int64] | None = None
) -> Comparison:
    """Run two models on the same inputs and compare every output they share.

    Args:
        a: the reference.
        b: the model to judge.
        batches: inputs by name.
        labels: class of each image in order, shape (images,); judged on the first output.

    Raises:
        ModelError: no output in common, shapes that differ, or labels for an output that is no row of scores.
    """
    shared = [name for name in a.outputs if name in b.outputs]
    if not shared:
        raise ModelError(f"compare: no output in common: {', '.join(a.outputs)} and {', '.join(b.outputs)}")
    tallies = {name: _Tally() for name in shared}
    hits: list[NDArray[np.bool_]] = []
    images = 0
    for batch in batches:
        ours, theirs = a.run(batch), b.run(batch)
        for name, tally in tallies.items():
            if ours[name].shape != theirs[name].shape:
                raise ModelError(f"output '{name}': shape {ours[name].shape} and {theirs[name].shape}, wanted the same")
            tally.add(ours[name], theirs[name])
        count = len(next(iter(batch.values())))
        if labels is not None:
            truth = labels[images : images + count]
            hits.append(np.stack([_hits(output[shared[0]], truth, shared[0]) for output in (ours, theirs)]))
        images += count
    return Comparison({name: tally.result() for name, tally in tallies.items()}, _accuracy(hits), images)


def _hits(scores: NDArray[Any], truth: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    """Whether the true class is among the best 1 and 5, shape (2, images)."""
    if scores.ndim != 2 or scores.shape[1] <= truth.max():
        raise ModelError(
            f"output '{name}': shape {scores.shape} does not score {truth.max() + 1} classes: compare without --labels"
        )
    ranked = np.argsort(-scores, axis=1, kind="stable")
    return np.stack([(ranked[:, :top] == truth[:, None]).any(axis=1) for top in _TOP])


def _accuracy(hits: Sequence[NDArray[np.bool_]]) -> Accuracy | None:
    if not hits:
        return None
    (a1, a5), (b1, b5) = np.concatenate(hits, axis=2).mean(axis=2)
    return Accuracy((float(a1), float(b1)), (float(a5), float(b5)))
