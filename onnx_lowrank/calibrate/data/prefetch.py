"""Read the next items in the background while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def prefetch(read: Callable[[Key], Value], keys: Iterable[Key], ahead: int = 1) -> Iterator[Value]:
    """Read values in order, some of them in advance on a background thread.

    Args:
        read: returns the value of a key.
        keys: what to read, in this order.
        ahead: values read in advance, at least 1; so ``ahead + 1`` of them are in memory at a time.

    Yields:
        The value of each key. An exception of ``read`` is raised in the place of its value.
    """
    remaining = iter(keys)
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = deque(reader.submit(read, key) for key in islice(remaining, ahead))
        while pending:
            value = pending.popleft().result()
            pending.extend(reader.submit(read, key) for key in islice(remaining, 1))
            yield value
