"""PyTorch's threads are set for one conversion, and for nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from onnx_lowrank.torch import threads
from onnx_lowrank.torch.threads import torch_threads


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def of_another_thread() -> int:
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    return found[0]


def test_threads_inside_and_afterwards() -> None:
    with torch_threads(2):
        assert torch.get_num_threads() == 2
        assert of_another_thread() == 3
        with torch_threads(4):
            assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == 2
    assert (torch.get_num_threads(), of_another_thread()) == (3, 3)


@pytest.mark.parametrize(("cores", "taken"), [(2, 2), (64, 3)])
def test_by_default_no_more_than_there_are_cores(monkeypatch: pytest.MonkeyPatch, cores: int, taken: int) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    with torch_threads(None):
        assert torch.get_num_threads() == taken
