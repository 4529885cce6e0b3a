"""A network as metrics see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.metrics.protocol import Batch


@dataclass(frozen=True, eq=False)
class NetworkPredictor:
    """A `Predictor` that hands out the outputs of a model, and nothing else that its session shows.

    Attributes:
        run: runs a batch and returns arrays by name, the outputs among them.
        inputs: names of the inputs.
        outputs: names of the outputs.
    """

    run: Callable[[Batch], Mapping[str, NDArray[Any]]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, inputs: Batch, /) -> dict[str, NDArray[Any]]:
        """Run one batch and return the outputs by name.

        Args:
            inputs: arrays by input name, first axis = samples.

        Raises:
            ModelError: the network cannot be run on them.
        """
        found = self.run({name: np.asarray(values) for name, values in inputs.items()})
        # Copies: a session may keep its outputs, and a metric may work in place.
        return {name: copy(found[name]) for name in self.outputs}
