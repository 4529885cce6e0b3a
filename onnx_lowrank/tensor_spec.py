"""What a model says of one of its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorSpec:
    """One model input.

    Attributes:
        name: the input's name in the graph.
        dtype: element type the model takes.
        shape: size of every axis, None where it is dynamic; the first axis counts samples.
        value: what it is always fed, with 1 on a dynamic first axis; None where every sample brings its own.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    value: NDArray[Any] | None = field(default=None, compare=False)

    def constant(self, samples: int) -> NDArray[Any]:
        """The value for a batch of samples: repeated for each where the first axis is dynamic."""
        if self.value is None:
            raise ValueError(f"input '{self.name}' is no constant")
        by_sample = bool(self.shape) and self.shape[0] is None
        return np.repeat(self.value, samples, axis=0) if by_sample else self.value
