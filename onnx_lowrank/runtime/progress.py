"""Progress of long-running stages, for the command line to show."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")
BatchT = TypeVar("BatchT", bound=Mapping[str, Sized])


class Progress(Protocol):
    """Follows stages; the command line draws bars, all others use `Silent`."""

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        """Yield ``items`` and count them as steps of a stage.

        Args:
            items: what the stage works on.
            stage: its name.
            total: number of items.
        """
        ...


class Silent:
    """Shows nothing."""

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:  # noqa: ARG002
        """Yield ``items``."""
        yield from items


class SampleCount:
    """The numbers of all samples, as steps that are done several at a time, with the batch that they are in.

    Attributes:
        samples: how many there are.
        done: how many have been worked on.
    """

    def __init__(self, samples: int) -> None:
        self.samples, self.done = samples, 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.samples))


def track_samples(progress: Progress, batches: Iterable[BatchT], stage: str, samples: int) -> Iterator[BatchT]:
    """Yield batches and count the samples in them as steps of a stage.

    Args:
        progress: watches.
        batches: arrays by input name, first axis = samples.
        stage: its name.
        samples: number of samples in all batches.
    """
    count = SampleCount(samples)
    counter = progress.track(count, stage, samples)
    next(counter, None)  # a sample is done once the next one is asked for
    for batch in batches:
        yield batch
        size = len(next(iter(batch.values())))
        count.done += size
        deque(islice(counter, size), maxlen=0)
