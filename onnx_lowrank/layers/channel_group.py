"""Channels that a layer reads and that may be left out, with all that makes them and all else that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Run(NamedTuple):
    """Consecutive channels of a tensor, or consecutive filters of a layer.

    Attributes:
        start: the first one.
        total: how many the tensor or the layer has, those outside included.
    """

    start: int
    total: int


@dataclass(frozen=True)
class ChannelGroup:
    """Consecutive channels that a layer reads, none of which reaches anything but the layers named here.

    Leaving one out removes a filter of every maker, its per-channel parameters on the way, and the input slices of all
    readers. One of these, the first that is no gate's, chooses how many; the others follow.

    Attributes:
        channels: number of channels, m.
        makers: names of the layers whose filters make the channels, a filter each; several where tensors with the same
            channels are multiplied, as by the gate of a squeeze-and-excitation block.
        carried: names of the depthwise convolutions on the way, whose work falls in proportion.
        squeezed: names of further readers from which nothing comes but a gate of the same channels.
        readers: names of all other further readers.
        start: of the channels among those that the layer reads.
        made: by name, the filters of makers and depthwise convolutions that have more than these.
        read: by name, the channels among those that further readers read, where these are more.
    """

    channels: int
    makers: tuple[str, ...]
    carried: tuple[str, ...] = ()
    squeezed: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    start: int = 0
    made: Mapping[str, Run] = field(default_factory=dict)
    read: Mapping[str, Run] = field(default_factory=dict)

    @property
    def followers(self) -> tuple[str, ...]:
        """Names of the layers that lose the same channels of their input."""
        return (*self.squeezed, *self.readers)

    def filters_of(self, maker: str) -> Run:
        """Return the group's filters among those of a maker or a depthwise convolution."""
        return self.made.get(maker, Run(0, self.channels))

    def inputs_of(self, follower: str) -> Run:
        """Return the group's channels among those that a further reader reads."""
        return self.read.get(follower, Run(0, self.channels))


def removable(groups: Sequence[ChannelGroup]) -> int:
    """Return how many channels can be left out of groups: all but one of each."""
    return sum(group.channels - 1 for group in groups)


def left_out(groups: Sequence[ChannelGroup], count: int) -> list[int]:
    """Return how many channels each group loses where ``count`` are left out in all: alike, in proportion.

    Args:
        groups: of one layer.
        count: at most as many as are `removable`.
    """
    taken = _turns(groups)[:count]
    return [int(np.count_nonzero(taken == number)) for number in range(len(groups))]


def in_turns(groups: Sequence[ChannelGroup], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order of a layer's channels in which groups take turns, so that they shrink in proportion.

    Args:
        groups: of the layer.
        order: all channels of its input, the one that is missed least first.

    Returns:
        The same channels, those that can be left out first, as many of each group as `left_out` says.
    """
    queues = [iter(order[(order >= each.start) & (order < each.start + each.channels)]) for each in groups]
    first = np.array([next(queues[number]) for number in _turns(groups)], np.int64)
    return np.concatenate([first, order[~np.isin(order, first)]])


def _turns(groups: Sequence[ChannelGroup]) -> NDArray[np.int64]:
    """Return the number of the group that loses a channel, turn by turn."""
    shares = [
        (place / group.channels, number) for number, group in enumerate(groups) for place in range(1, group.channels)
    ]
    return np.array([number for _, number in sorted(shares)], np.int64)
