"""The objects that are found in one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Boxes:
    """Objects in one image, in pixels of the network's input.

    Attributes:
        corners: left, top, right, bottom, shape (n, 4).
        scores: shape (n,).
        labels: classes, shape (n,).
        ignored: objects of the truth that need not be found, and may be, shape (n,); none where not given.
    """

    corners: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.scores)

    @staticmethod
    def of(corners: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> Boxes:
        """Convert arrays of any type and of one length, the best scores first."""
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        return Boxes(
            corners[order].astype(np.float64).reshape(-1, 4),
            scores[order].astype(np.float64),
            labels[order].astype(np.int64),
        )

    def above(self, score: float) -> Boxes:
        """Return those of at least a score."""
        kept = self.scores >= score
        ignored = None if self.ignored is None else self.ignored[kept]
        return Boxes(self.corners[kept], self.scores[kept], self.labels[kept], ignored)


def from_centres(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return corners of boxes that are given as centre x, centre y, width, height, shape (..., 4).

    >>> from_centres(np.array([[5, 5, 4, 2]]))
    array([[3., 4., 7., 6.]])
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)
