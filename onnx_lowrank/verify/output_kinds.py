"""Kinds of outputs that a relative error says little of, recognized by the shape and values of the original's.

| kind           | recognized by                                                 | judged by                        |
|----------------|---------------------------------------------------------------|----------------------------------|
| `segmentation` | images of probabilities that add up to 1 over the channels    | pixels of the same class         |
| `places`       | rows of probabilities of classes: anchors, steps of a text    | class, but where it is common    |
| `map`          | images of numbers that are next to 0 or 1 nearly everywhere   | overlap of what is above a half  |
| `empty map`    | likewise, with next to nothing above a half                   | places on the same side of it    |
| `class map`    | images of integers                                            | pixels of the same class         |
| `boxes`        | rows of four numbers, the last two not below the first two    | mean overlap of boxes            |
| `embedding`    | one row a sample, of length 1                                 | mean cosine                      |

Maps of text, edges or heat are near zero in most places, on samples without any of it everywhere: then any difference
is large beside them. Rows of boxes are large numbers whose last digits do not matter. Other outputs keep their own
measures: the agreement of classes, else the relative error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

_SUM_TOLERANCE = 1e-2  # probabilities in half precision do not add up to 1 exactly
_LENGTH_TOLERANCE = 1e-2
_MIN_SIDE = 8  # of an image
_MIN_EMBEDDING = 16
_NEAR, _NEARLY_ALL = 0.1, 0.9  # of a map: how near to 0 or 1, and in which share of its places
_MIN_MARKED = 1e-3  # share of places; where less is marked, an overlap is a matter of chance

Values = NDArray[Any]


@dataclass(frozen=True)
class KindFidelity:
    """How close an output is by the measure of its kind.

    Attributes:
        kind: see the head of this file.
        measure: what is measured, as in ``overlap of marked areas``.
        value: of it, 1 for the same output; higher is better.
        expected: what is lower gets a warning.
        least: what is lower is refused.
    """

    kind: str
    measure: str
    value: float
    expected: float
    least: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that an output's entry in JSON reports has beside the usual ones."""
        measure = {"name": self.measure, "value": self.value, "warn": self.expected, "refuse": self.least}
        return {"kind": self.kind, "measure": measure}


class KindSums:
    """Running sums over batches for one output, of every kind that it may be of."""

    def __init__(self) -> None:
        self._left: list[_Kind] = [_Segmentation(), _Places(), _Map(), _ClassMap(), _Boxes(), _Embedding()]

    def add(self, a: Values, b: Values, samples: int) -> None:
        """Add the output of the original and of the other network for a batch.

        Args:
            a: of the original.
            b: of the other network, of the same shape.
            samples: number of samples in the batch.
        """
        with np.errstate(all="ignore"):  # NaN and infinity are found by others
            self._left = [kind for kind in self._left if kind.fits(a, samples)]
            for kind in self._left:
                kind.add(a, b)

    def result(self) -> KindFidelity | None:
        """Return the fidelity by the first kind that all batches fit; None for an output of no such kind."""
        return next((found for kind in self._left if (found := kind.result()) is not None), None)


class _Kind(ABC):
    """Running sums of one kind."""

    name: ClassVar[str]
    measure: ClassVar[str]
    expected: ClassVar[float]
    least: ClassVar[float] = 0.5

    def __init__(self) -> None:
        self.same = self.all = 0.0

    @abstractmethod
    def fits(self, a: Values, samples: int) -> bool:
        """Return whether the original's output may be of this kind."""

    @abstractmethod
    def add(self, a: Values, b: Values) -> None:
        """Add what is the same, and what there is, of a batch."""

    def result(self) -> KindFidelity | None:
        """Return the fidelity; None where there was nothing."""
        if not self.all:
            return None
        return KindFidelity(self.name, self.measure, self.same / self.all, self.expected, self.least)


class _Map(_Kind):
    name, measure, expected = "map", "overlap of marked areas", 0.75

    def __init__(self) -> None:
        super().__init__()
        self.places = 0

    def fits(self, a: Values, samples: int) -> bool:
        if not (_is_float(a) and _is_image(a, samples) and _is_share(a)):
            return False
        return bool(((a < _NEAR) | (a > 1 - _NEAR)).mean() >= _NEARLY_ALL)

    def add(self, a: Values, b: Values) -> None:
        ours, theirs = a > 0.5, b > 0.5
        self.same += int((ours & theirs).sum())
        self.all += int((ours | theirs).sum())
        self.places += a.size

    def result(self) -> KindFidelity | None:
        if self.all >= _MIN_MARKED * self.places:
            return super().result()
        switched = (self.all - self.same) / self.places
        return KindFidelity("empty map", "places marked alike", 1 - switched, 1 - _MIN_MARKED, 0.99)


class _Segmentation(_Kind):
    name, measure, expected = "segmentation", "pixels of the same class", 0.95

    def __init__(self) -> None:
        super().__init__()
        self.axis = 1

    def fits(self, a: Values, samples: int) -> bool:
        if not (_is_float(a) and a.ndim == 4 and _is_image(a, samples)):
            return False
        axes = [axis for axis in (1, 3) if a.shape[axis] > 1 and _adds_up(a, axis)]
        self.axis = axes[0] if axes else 0
        return bool(axes)

    def add(self, a: Values, b: Values) -> None:
        same = a.argmax(self.axis) == b.argmax(self.axis)
        self.same += int(same.sum())
        self.all += same.size


class _ClassMap(_Kind):
    name, measure, expected, least = "class map", "pixels of the same class", 0.95, 0.0

    def fits(self, a: Values, samples: int) -> bool:
        return a.dtype.kind in "iu" and _is_image(a, samples)

    def add(self, a: Values, b: Values) -> None:
        self.same += int((a == b).sum())
        self.all += a.size


class _Places(_Kind):
    name, measure, expected = "places", "same class where there is one", 0.9

    def __init__(self) -> None:
        super().__init__()
        self.ours: list[NDArray[np.int64]] = []
        self.theirs: list[NDArray[np.int64]] = []

    def fits(self, a: Values, samples: int) -> bool:
        return _is_float(a) and a.ndim == 3 and samples in a.shape[:2] and a.shape[2] > 1 and _adds_up(a, axis=2)

    def add(self, a: Values, b: Values) -> None:
        self.ours.append(a.argmax(-1).ravel())
        self.theirs.append(b.argmax(-1).ravel())

    def result(self) -> KindFidelity | None:
        if not self.ours:
            return None
        ours, theirs = np.concatenate(self.ours), np.concatenate(self.theirs)
        common = np.bincount(ours).argmax()  # the background, or the blank between letters
        something = (ours != common) | (theirs != common)
        self.same, self.all = float((something & (ours == theirs)).sum()), float(something.sum())
        return super().result()


class _Boxes(_Kind):
    name, measure, expected = "boxes", "mean overlap of boxes", 0.75

    def fits(self, a: Values, samples: int) -> bool:
        if not (_is_float(a) and a.ndim == 3 and len(a) == samples and a.shape[2] == 4):
            return False
        sides = a[..., 2:] - a[..., :2]
        return bool(np.isfinite(a).all() and (sides >= 0).all() and (sides > 0).any())

    def add(self, a: Values, b: Values) -> None:
        a, b = (each.reshape(-1, 4).astype(np.float64) for each in (a, b))
        shared = _area(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]))
        union = _area(a[:, 2:] - a[:, :2]) + _area(b[:, 2:] - b[:, :2]) - shared
        real = union > 0
        self.same += float((shared[real] / union[real]).sum())
        self.all += float(real.sum())


class _Embedding(_Kind):
    name, measure, expected = "embedding", "mean cosine", 0.95

    def fits(self, a: Values, samples: int) -> bool:
        if not (_is_float(a) and a.ndim == 2 and len(a) == samples and a.shape[1] >= _MIN_EMBEDDING):
            return False
        lengths = np.linalg.norm(a.astype(np.float64), axis=1)
        return bool((np.abs(lengths - 1) <= _LENGTH_TOLERANCE).all() and (a < 0).any())

    def add(self, a: Values, b: Values) -> None:
        a, b = a.astype(np.float64), b.astype(np.float64)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        self.same += float(((a * b).sum(1) / np.where(lengths > 0, lengths, 1)).sum())
        self.all += len(a)


def _area(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.maximum(sides, 0).prod(1)
    return areas


def _is_float(a: Values) -> bool:
    return bool(np.issubdtype(a.dtype, np.floating)) and a.size > 0


def _is_image(a: Values, samples: int) -> bool:
    """Return whether it has two long axes behind that of the samples, with channels before or behind them, or none."""
    sides = (a.shape[-2:], a.shape[1:3]) if a.ndim == 4 else (a.shape[-2:],)
    return a.ndim in {3, 4} and len(a) == samples and max(map(min, sides)) >= _MIN_SIDE


def _is_share(a: Values) -> bool:
    return bool(a.min() >= 0 and a.max() <= 1)


def _adds_up(a: Values, axis: int) -> bool:
    sums = a.sum(axis=axis, dtype=np.float64)
    return bool(a.min() >= 0) and bool((np.abs(sums - 1) <= _SUM_TOLERANCE).all())
