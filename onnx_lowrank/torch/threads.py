"""The number of threads that PyTorch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

from onnx_lowrank.runtime.processors import usable_cores


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set the number of threads for what this thread computes inside the block.

    ``torch.set_num_threads`` would set it for all threads that begin later, too: those of the user's program, and
    another conversion, which would take it for the number to go back to.

    Args:
        count: threads; None for as many as PyTorch takes by itself, and no more than there are usable cores.
    """
    wanted = count or min(torch.get_num_threads(), usable_cores())
    with ThreadpoolController().limit(limits=wanted, user_api="openmp"):
        yield
