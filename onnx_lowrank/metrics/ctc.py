"""What a network with CTC outputs reads: the best class at every step, repeats once, blanks left out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_greedily(steps: NDArray[np.int64], blank: int) -> list[int]:
    """Return the classes that are read.

    Args:
        steps: best class at each step, shape (steps,).
        blank: class that stands for none.

    References:
        Graves, Fernández, Gomez, Schmidhuber 2006, Connectionist temporal classification, ICML, best path decoding.

    >>> read_greedily(np.array([0, 3, 3, 0, 3, 2, 2, 0]), blank=0)
    [3, 3, 2]
    """
    changed = np.append(True, steps[1:] != steps[:-1])[: len(steps)]
    kept = steps[changed]
    return [int(each) for each in kept[kept != blank]]


def best_classes(values: NDArray[Any], samples: int) -> NDArray[np.int64] | None:
    """Return the best class at each step, shape (samples, steps); None for an output that has none.

    Args:
        values: scores, shape (samples, steps, classes), or (steps, samples, classes) where only that fits; or classes,
            shape (samples, steps).
        samples: number of samples in the batch.
    """
    if values.ndim == 2 and values.dtype.kind in "iu" and len(values) == samples:
        return values.astype(np.int64)
    if values.ndim != 3 or values.dtype.kind != "f" or values.shape[2] < 2:
        return None
    if len(values) == samples:
        return np.asarray(values.argmax(axis=2))
    return np.asarray(values.argmax(axis=2).T) if values.shape[1] == samples else None


def usual_blank(steps: NDArray[np.int64], classes: int) -> int:
    """Return which class stands for none, the first or the last: the one that is the best more often.

    Args:
        steps: best classes, any shape.
        classes: how many there are.
    """
    return classes - 1 if (steps == classes - 1).sum() > (steps == 0).sum() else 0
