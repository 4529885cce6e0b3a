"""What pays on a GPU, where milliseconds are chosen for: fewer channels first, no chains of thin layers.

No GPU fuses one convolution into the next: every stage of a chain writes its output to memory and reads it back, and is
one more kernel to launch. At a quarter of the multiply-adds of a 3 x 3 convolution, C to C channels, in fp16 at 60 % of
the peak rate and 85 % of the bandwidth, without the cost of launches, that makes it so many times as fast (calculated;
a two-way chain / a three-way one):

| C   | T4        | L4        | A100      | H100      |
|-----|-----------|-----------|-----------|-----------|
| 64  | 1.6 / 1.2 | 0.8 / 0.6 | 2.0 / 1.5 | 1.1 / 0.8 |
| 128 | 2.5 / 2.1 | 1.6 / 1.1 | 2.7 / 2.7 | 2.1 / 1.5 |
| 256 | 3.4 / 3.3 | 2.7 / 2.2 | 3.6 / 3.6 | 3.0 / 2.8 |
| 512 | 3.9 / 4.1 | 3.4 / 3.5 | 4.0 / 4.1 | 3.7 / 3.8 |

So layers of up to 64 channels get no chain, those of up to 128 only two-way ones. Fewer channels keep convolutions
dense and add no kernel. What is measured at one batch size can be slower at another: launches count with few samples,
memory with many.

References:
    Williams, Waterman, Patterson 2009, Roofline: an insightful visual performance model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import TWO_WAY
from onnx_lowrank.ranks.coupled import Coupling, select_coupled
from onnx_lowrank.ranks.select import Option

_TOO_THIN, _TWO_WAY_ONLY = 64, 128  # channels
_SMALLEST_BATCH, _LARGE_BATCH = 1, 32
_CLEARLY_LESS = 0.8  # of the loss of fewer channels, for a chain to be taken


def other_batch(batch: int) -> int:
    """Return the number of samples at the other end of what is deployed.

    >>> other_batch(1), other_batch(8), other_batch(64)
    (32, 32, 1)
    """
    return _LARGE_BATCH if batch < _LARGE_BATCH else _SMALLEST_BATCH


def methods_that_pay(layer: Layer, methods: Sequence[str]) -> list[str]:
    """Return those of some methods that pay for a layer on a GPU; two-way chains in the place of three-way ones.

    Args:
        layer: the layer; what counts is the smaller number of channels, read or made by a group.
        methods: factorizations, and ``width``, which always pays.
    """
    channels = min(layer.channels, layer.filters) // layer.groups
    if channels <= _TOO_THIN:
        return [method for method in methods if method == "width"]
    if channels > _TWO_WAY_ONLY:
        return list(methods)
    return list(dict.fromkeys(each for method in methods for each in TWO_WAY.get(method, (method,))))


def no_slower(options: Sequence[Option], milliseconds: Sequence[float]) -> list[Option]:
    """Return the options of a layer that take no longer than the layer itself at another batch size.

    Args:
        options: the first keeps the layer as it is.
        milliseconds: of each at that batch size.
    """
    kept = milliseconds[0]
    return [option for option, each in zip(options, milliseconds, strict=True) if each <= kept]


def select_widths_first(
    options: Sequence[Sequence[Option]], budget: float, coupling: Coupling, weights: Sequence[float] | None = None
) -> list[Option]:
    """Do what `select_coupled` does, but take chains only where they lose clearly less than fewer channels would."""
    weighed = [[_weighed(option) for option in layer] for layer in options]
    chosen = select_coupled(weighed, budget, coupling, weights)
    numbers = [
        next(n for n, each in enumerate(layer) if each is one) for layer, one in zip(weighed, chosen, strict=True)
    ]
    return [layer[number] for layer, number in zip(options, numbers, strict=True)]


def _weighed(option: Option) -> Option:
    """Return an option with the loss to choose by."""
    if option.plan.method in {"kept", "width"}:
        return option
    loss = (1 - option.plan.energy) / _CLEARLY_LESS
    return replace(option, plan=replace(option.plan, energy=1 - loss))
