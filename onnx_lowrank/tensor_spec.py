"""What a model says of one of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """One model input.

    Attributes:
        name: the input's name in the graph.
        dtype: element type the model takes.
        shape: size of every axis, None where it is dynamic; the first axis counts samples.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
