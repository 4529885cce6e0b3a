"""The number of threads that PyTorch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from onnx_lowrank.runtime.processors import usable_cores


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set the number of PyTorch's threads inside the block; by default no more than there are usable cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
