"""Groups of channels that shrink together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.layers.channel_group import ChannelGroup, Run, in_turns, left_out, removable

PARTS = (ChannelGroup(8, ("a",)), ChannelGroup(4, ("b",), start=10))


def test_parts_shrink_in_proportion() -> None:
    assert removable(PARTS) == 10
    assert left_out(PARTS, 0) == [0, 0]
    assert left_out(PARTS, 3) == [2, 1]
    assert left_out(PARTS, 6) == [4, 2]
    assert left_out(PARTS, 10) == [7, 3]


def test_channels_go_in_the_order_of_their_part_and_those_of_none_last() -> None:
    order = np.array([13, 12, 8, 9, 7, 11, 10, 0, 1, 2, 3, 4, 5, 6])
    assert in_turns(PARTS, order).tolist() == [7, 0, 13, 1, 2, 12, 3, 4, 11, 5, 8, 9, 10, 6]


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[ChannelGroup], int]:
    """Draw groups of a layer, with channels between them that belong to none, and how many it reads."""
    found, start = [], 0
    for count in draw(st.lists(st.integers(2, 9), min_size=1, max_size=4)):
        start += draw(st.integers(0, 2))
        found.append(ChannelGroup(count, ("a",), start=start))
        start += count
    return found, start + draw(st.integers(0, 2))


@given(groups(), st.data())
def test_as_many_of_each_part_go_as_are_said(drawn: tuple[list[ChannelGroup], int], data: st.DataObject) -> None:
    parts, channels = drawn
    order = in_turns(parts, np.array(data.draw(st.permutations(range(channels)))))
    assert sorted(order) == list(range(channels))
    count = data.draw(st.integers(0, removable(parts)))
    gone = order[:count]
    counts = left_out(parts, count)
    assert counts == [int(np.isin(gone, range(each.start, each.start + each.channels)).sum()) for each in parts]
    assert sum(counts) == count
    every = sum(each.channels for each in parts)
    for each, out in zip(parts, counts, strict=True):
        assert out < each.channels
        assert abs(out - count * each.channels / every) <= len(parts)


@pytest.mark.parametrize("name", ["a", "d"])
def test_members_that_have_no_more_channels(name: str) -> None:
    group = ChannelGroup(4, ("a", "b"), made={"b": Run(3, 9)}, read={"c": Run(1, 6)})
    assert group.filters_of(name) == group.inputs_of(name) == Run(0, 4)
    assert (group.filters_of("b"), group.inputs_of("c")) == (Run(3, 9), Run(1, 6))
