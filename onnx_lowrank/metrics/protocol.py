"""What a metric is given and what it returns.

A metric is a function of a predictor and of samples; higher is better::

    def accuracy(predictor, samples):
        right = []
        for batch in samples:                        # {input name: array}, first axis = samples
            scores = predictor(batch)["scores"]      # {output name: array}
            right += list(scores.argmax(1) == 3)
        return right                                 # one score a sample: the change gets an interval

It is called twice on the same samples, with the original and with the converted network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.metrics.detections.boxes import Boxes

Batch: TypeAlias = Mapping[str, NDArray[Any]]  # arrays by input name, first axis = samples
Interval: TypeAlias = tuple[float, float]
PixelClasses: TypeAlias = NDArray[np.int64]  # shape (height, width)
Text: TypeAlias = str | tuple[int, ...]  # characters, or their classes
Reading: TypeAlias = Boxes | PixelClasses | Text
ReadOutputs: TypeAlias = Callable[[Mapping[str, NDArray[Any]], Batch], list[Reading]]


class Predictor(Protocol):
    """A network that runs on batches of inputs."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the order of the model."""
        ...

    def __call__(self, inputs: Batch, /) -> dict[str, NDArray[Any]]:
        """Run one batch and return the outputs by name.

        Args:
            inputs: arrays by input name, first axis = samples.
        """
        ...


@dataclass(frozen=True)
class Placement:
    """Where an image file lies in the network's input.

    A point ``(x, y)`` of the image, in pixels from its upper left corner, is at ``(x * scale[0] + offset[0],
    y * scale[1] + offset[1])`` of the input. With crops, some of it is outside.

    Attributes:
        scale: along x and along y.
        offset: in pixels of the input, along x and along y.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]


@dataclass(frozen=True, eq=False)
class MetricSamples:
    """Samples that networks are measured on, as networks see them, and where they come from.

    Iterating yields batches ``{input name: array}``, first axis = samples, always the same and in the same order; the
    last one may be shorter.

    Attributes:
        batches: starts a new iteration.
        names: of every sample, the path of its image inside ``source``, with forward slashes; None where samples are
            arrays.
        source: the folder or archive of the images; None where samples are arrays.
        labels: class of every sample, shape (samples,); None where there are no class folders or names.
        check_labels: raises CalibrationError where the labels are of other classes than an output scores; takes their
            number and the output's name. None where nothing is known of them.
        image_sizes: returns (width, height) in pixels of every sample's image file, None where it has none. The files
            are opened for it.
        placements: returns where every sample's image file lies in the input, None where it has none. Likewise.
    """

    batches: Callable[[], Iterator[Batch]]
    names: tuple[str | None, ...]
    source: Path | None = None
    labels: NDArray[np.int64] | None = None
    check_labels: Callable[[int, str], None] | None = None
    image_sizes: Callable[[], Sequence[tuple[int, int] | None]] = tuple
    placements: Callable[[], Sequence[Placement | None]] = tuple

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the samples in batches."""
        return self.batches()


@dataclass(frozen=True, eq=False)
class Resampled:
    """The score of a network on any sample of the samples, for scores that are no mean of one score a sample.

    Such as a mean average precision: its interval is found by scoring samples drawn with replacement.

    Attributes:
        count: number of samples.
        score_of: returns the score on the samples with given indices, which may repeat, shape (any number,).
    """

    count: int
    score_of: Callable[[NDArray[np.int64]], float]


Scores: TypeAlias = float | Sequence[float] | NDArray[Any] | Resampled
MetricFunction: TypeAlias = Callable[[Predictor, MetricSamples], Scores]


@dataclass(frozen=True)
class PreparedMetric:
    """A metric that knows the truth of some samples.

    Attributes:
        score: returns the score of a network: a number; or one a sample, in their order, whose mean is the score; or
            a `Resampled`. Higher is better.
        truth: what it holds the network against, as in ``class folders``; empty where that is the user's own business.
        read: returns what a network finds in each sample of a batch, for pictures, see `readings`: takes its outputs
            and inputs by name; None where that is nothing to be shown.
    """

    score: MetricFunction
    truth: str = ""
    read: ReadOutputs | None = None


class Metric(Protocol):
    """A measure of quality."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:
        """Find the truth of samples: among their files, or in what the original network makes of them.

        Args:
            original: the original network.
            samples: that networks will be measured on.

        Raises:
            CalibrationError: there is no truth, or it does not fit the samples.
        """
        ...


@dataclass(frozen=True)
class Measured:
    """A metric of the original and of the converted network.

    Attributes:
        name: of the metric.
        original: score of the original.
        converted: score of the converted network, on the same samples.
        interval: confidence interval of ``original - converted`` at 95 %; None where there is none.
        images: number of samples.
        truth: as in `PreparedMetric`.
        no_interval: why there is no interval; empty where there is one.
    """

    name: str
    original: float
    converted: float
    interval: Interval | None
    images: int
    truth: str = ""
    no_interval: str = ""

    @property
    def loss(self) -> float:
        """How much lower the converted network's score is; negative for a gain."""
        return self.original - self.converted

    def to_dict(self) -> dict[str, Any]:
        """Return the entry ``metric`` of JSON reports."""
        return {
            "name": self.name,
            "original": self.original,
            "converted": self.converted,
            "interval": None if self.interval is None else list(self.interval),
            "images": self.images,
            "truth": self.truth,
            **({"no_interval": self.no_interval} if self.interval is None else {}),
        }
