"""Times chains that are parts of one network, for runtimes that run only what a wanted output needs.

Converters take longer than the chains run: hundreds of chains are converted side by side in a few networks, and each is
then run by asking for its output alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np

from onnx_lowrank.graph import Part, layers_model
from onnx_lowrank.runtime.backends.protocol import Runtime
from onnx_lowrank.runtime.backends.staging import staging_folder
from onnx_lowrank.runtime.timing import Pace, time_round

_MAX_BYTES = 64 * 2**20  # of weights and inputs in one network: converters hold several copies
_MAX_PARTS = 64  # in one network: what pnnx takes grows with the square of their number
_ONE_RUN = Pace(rounds=1, repeats=1, seconds=0, warm_up=0)


def time_parts(
    parts: Sequence[Part], runtime: Runtime, passes: int, rest: int, between: Callable[[], None]
) -> Generator[tuple[int, float]]:
    """Time chains one by one, in a few networks.

    The chains of a network take turns, a run each: between two runs of one all others go through the caches, as the
    rest of a network does.

    Args:
        parts: the chains.
        runtime: one that runs parts, see `Runtime.runs_parts`.
        passes: how often each is run, beside a first time that does not count.
        rest: bytes that should go through the caches between two runs of a chain.
        between: called before every pass where the chains of a network are fewer than that, not timed.

    Yields:
        The number of a chain, and the milliseconds of a run: each number as often as there are passes.

    Raises:
        ModelError: the runtime cannot convert, load or run them.
    """
    for numbers in _in_groups(parts):
        group = [parts[number] for number in numbers]
        is_enough = sum(part.nbytes for part in group) >= rest
        with closing(_time_group(group, runtime, passes, between if not is_enough else lambda: None)) as timed:
            for position, milliseconds in timed:
                yield numbers[position], milliseconds


def _time_group(
    parts: Sequence[Part], runtime: Runtime, passes: int, between: Callable[[], None]
) -> Generator[tuple[int, float]]:
    """Time chains that are converted together."""
    noise = np.random.default_rng(0)
    shapes = {part.input_name: (part.input_shape, part.layer.weight.dtype) for part in parts}
    feeds = {name: noise.random(shape, np.float32).astype(dtype) for name, (shape, dtype) in shapes.items()}
    with ExitStack() as stack:
        network = runtime.prepare(layers_model(parts), feeds, stack.enter_context(staging_folder()))
        opened = []
        for number in range(len(parts)):
            opened.append(network.open([f"output{number}"]))
            stack.callback(opened[-1].close)
            opened[-1].run()
        for _ in range(passes):
            between()
            for position, running in enumerate(opened):
                (milliseconds,) = time_round(running.run, _ONE_RUN)
                yield position, milliseconds


def _in_groups(parts: Sequence[Part]) -> Iterator[list[int]]:
    """Yield the numbers of the chains that share a network, as many as it should hold."""
    group: list[int] = []
    inputs: set[str] = set()
    size = 0
    for number, part in enumerate(parts):
        own = part.nbytes + (0 if part.input_name in inputs else part.input_bytes)
        if group and (size + own > _MAX_BYTES or len(group) == _MAX_PARTS):
            yield group
            group, inputs, size = [], set(), 0
            own = part.nbytes + part.input_bytes
        group.append(number)
        inputs.add(part.input_name)
        size += own
    if group:
        yield group
