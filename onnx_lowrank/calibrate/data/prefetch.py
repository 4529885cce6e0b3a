"""Read the next items in the background while the current one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

from onnx_lowrank import interruption
from onnx_lowrank.linalg.threads import Background

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
    # Queues whose locks are taken in C, which Ctrl-C cannot leave held: see `onnx_lowrank.linalg.threads`.
    requests: SimpleQueue[tuple[Key] | None] = SimpleQueue()  # None ends the thread
    values: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    is_wanted = True

    def serve() -> None:
        while is_wanted and (request := requests.get()) is not None:
            try:
                values.put((read(*request), None))
            except BaseException as error:  # raised where the value is waited for
                values.put((None, error))

    remaining, reader = iter(keys), Background(serve)
    try:
        coming = _request(requests, islice(remaining, ahead))
        while coming:
            value, error = values.get()
            if error is not None:
                raise error
            coming += _request(requests, islice(remaining, 1)) - 1
            interruption.check()
            yield value
    finally:
        is_wanted = False
        requests.put(None)
        reader.wait()


def _request(requests: SimpleQueue[tuple[Key] | None], keys: Iterable[Key]) -> int:
    """Ask for the values of keys, and return how many there are."""
    count = 0
    for key in keys:
        requests.put((key,))
        count += 1
    return count
