"""Names in tables: in full, or cut in the middle so that rows can be told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.report.names import cut_names, fit_names

BLOCKS = [f"/backbone/stage{stage}/block{block}/{conv}/Conv" for stage in (1, 2) for block in (9, 10) for conv in "ab"]


def test_names_that_fit_are_whole() -> None:
    assert cut_names(["abc", "abcd"], 4) == ["abc", "abcd"]
    assert cut_names(BLOCKS, None) == BLOCKS


def test_start_and_end_are_left() -> None:
    assert cut_names(["features.conv_3.long.name.weight"], 15) == ["featur...weight"]


@pytest.mark.parametrize("width", [12, 16, 20, 30])
def test_rows_never_look_alike(width: int) -> None:
    cut = cut_names(BLOCKS, width)
    assert len(set(cut)) == len(BLOCKS)
    assert all(len(name) <= width for name in cut)


def test_names_that_look_alike_wherever_they_are_cut_are_numbered() -> None:
    names = [f"{'a' * 20}{kind}{'a' * 20}" for kind in "xyz"]
    assert cut_names(["short", *names], 12) == ["short", "aaaaaaa...#2", "aaaaaaa...#3", "aaaaaaa...#4"]


@given(st.sets(st.text("ab./", min_size=1, max_size=40), min_size=1, max_size=30), st.integers(12, 40))
def test_different_names_stay_different(names: set[str], width: int) -> None:
    cut = cut_names(sorted(names), width)
    assert len(set(cut)) == len(names)
    assert max(map(len, cut)) <= width


def test_tables_take_what_the_terminal_has() -> None:
    rows = [
        ["layer", "MACs", ""],
        *([name, "123 M", "stays: depthwise convolution, for a long reason"] for name in BLOCKS),
    ]
    assert fit_names(rows, None) == rows
    assert fit_names(rows, 200) == rows
    cut = fit_names(rows, 60, wrapped=30)
    assert [row[1:] for row in cut] == [row[1:] for row in rows]
    assert max(len(row[0]) for row in cut) == 60 - len("123 M") - 2 - 30
