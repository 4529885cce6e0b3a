"""A network to measure on: its calibration data, and its loss on samples that were not used for solving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

import onnx_lowrank as olr
from onnx_lowrank.layers.layer import Layer, SkippedLayer


@dataclass(frozen=True, eq=False)
class Network:
    """A network to measure on.

    Attributes:
        name: for the table.
        model: the original.
        speedups: to convert at.
        data: to calibrate with, as `olr.convert` takes it.
        preprocessing: of the data.
        samples: of the data to calibrate with.
        inputs: some calibration samples.
        loss: of a converted model, on samples that were not used for solving.
        unit: of the loss.
        input_shapes: of inputs with open axes, by name, to count multiply-adds.
        threads: to convert with; None for all.
    """

    name: str
    model: Path
    speedups: tuple[float, ...]
    data: Any
    preprocessing: olr.Preprocessing
    samples: int
    inputs: Callable[[int], NDArray[Any]]
    loss: Callable[[onnx.ModelProto], float]
    unit: str
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int | None = None

    def convert(self, **settings: Any) -> olr.Result:
        """Convert the network, without timing it."""
        chosen = {"samples": self.samples, "threads": self.threads, "bench": False, **settings}
        return olr.convert(self.model, self.data, preprocessing=self.preprocessing, **chosen)

    @property
    def input_name(self) -> str:
        """Name of the one input."""
        graph = onnx.load(self.model).graph
        weights = {tensor.name for tensor in graph.initializer}
        return str(next(value.name for value in graph.input if value.name not in weights))

    def rows(self) -> Sequence[Layer | SkippedLayer]:
        """Return the layers of the original."""
        return olr.inspect(self.model, input_shapes=self.input_shapes).rows

    def speedup(self, model: onnx.ModelProto) -> float:
        """Return how many times fewer multiply-adds a converted model has."""
        before, after = (olr.inspect(each, input_shapes=self.input_shapes).macs for each in (self.model, model))
        return before / after


def convolutions(network: Network) -> tuple[list[Layer], int]:
    """Return the layers that can be factorized, and the multiply-adds of those that stay."""
    rows = network.rows()
    layers = [row for row in rows if isinstance(row, Layer)]
    return layers, sum(row.macs for row in rows if not isinstance(row, Layer))


def largest_share(fits: Callable[[float], bool], steps: int = 40) -> float:
    """Find the largest share from 0 to 1 that fits, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
