"""What crosses from collecting to solving: sampled rows of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Targets:
    """What the original network delivers at the sampled positions of one layer.

    Attributes:
        responses: before the activation, shape (n, d), float32; row = image-major sample.
        residual: what is added before the activation, shape (n, d); None where nothing is.
    """

    responses: NDArray[Any]
    residual: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Responses:
    """Both sides of one layer's reconstruction; row i of each is the same position of the same image.

    Attributes:
        targets: what the original network delivers.
        inputs: the original layer applied to what the converted prefix really delivers, shape (n, d), float32.
    """

    targets: Targets
    inputs: NDArray[Any]
