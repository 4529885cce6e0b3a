"""How many threads the linear algebra takes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[Any]:
    """Keep eigenvalue problems on one thread inside the block.

    They hand over between threads so often that a second one gains nothing, and where the other core is busy each
    hand-over waits for it: 512 x 512 was seen to take seconds instead of hundredths.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
