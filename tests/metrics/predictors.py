"""Networks that are functions, and samples of arrays or of image files, for measures to be tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.metrics.protocol import MetricSamples, Placement, Predictor, PreparedMetric, Resampled

Array = NDArray[Any]


@dataclass(frozen=True)
class Function:
    """A network that computes its outputs by a Python function of the images."""

    function: Callable[[Array], Mapping[str, Array]]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ("images",)

    def __call__(self, inputs: Mapping[str, Array], /) -> dict[str, Array]:
        return dict(self.function(inputs["images"]))


def samples(
    images: Array,
    batch: int = 2,
    names: Sequence[str] | None = None,
    source: Path | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    placements: Sequence[Placement] | None = None,
    labels: Array | None = None,
) -> MetricSamples:
    """Samples of an array, batch by batch, and the files that they are said to come from."""

    def batches() -> Iterator[dict[str, Array]]:
        for start in range(0, len(images), batch):
            yield {"images": images[start : start + batch]}

    none = [None] * len(images)
    return MetricSamples(
        batches,
        tuple(names or none),
        source,
        labels,
        image_sizes=lambda: sizes or none,
        placements=lambda: placements or none,
    )


def score(prepared: PreparedMetric, predictor: Predictor, of: MetricSamples) -> float:
    """The score as one number."""
    found = prepared.score(predictor, of)
    if isinstance(found, Resampled):
        assert found.count == len(of)
        return found.score_of(np.arange(found.count))
    return float(np.mean(found))


def save_mask(path: Path, values: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
