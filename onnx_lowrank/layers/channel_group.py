"""Channels that one layer reads and that may be left out, with all that makes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChannelGroup:
    """The channels that a layer reads, none of which reaches anything else.

    Leaving one out removes a filter of every maker, its per-channel parameters on the way, and the input slices of all
    readers.

    Attributes:
        channels: number of channels, m.
        makers: names of the layers whose filters make the channels, m filters each; several where tensors with the same
            channels are multiplied, as by the gate of a squeeze-and-excitation block.
        carried: names of the depthwise convolutions on the way, whose work falls in proportion.
        squeezed: names of further readers: layers that read only the pooled channels, for a gate of the same channels.
    """

    channels: int
    makers: tuple[str, ...]
    carried: tuple[str, ...] = ()
    squeezed: tuple[str, ...] = ()
