"""A device that is not there: its tensors have numbers and say that they are on ``meta``.

It is as strict as a GPU, and stricter: numbers get there and back by copies alone, which are noted down; its tensors
mix with none of the host's, unless with single numbers; NumPy cannot read them. It is the CPU that computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"


@dataclass(frozen=True)
class Traffic:
    """Shapes of what was sent to the device and of what was fetched from it."""

    sent: list[tuple[int, ...]] = field(default_factory=list)
    fetched: list[tuple[int, ...]] = field(default_factory=list)


@contextmanager
def elsewhere() -> Iterator[Traffic]:
    """Have the device while the block runs."""
    traffic = Traffic()
    with _Device(traffic), _Creation():
        yield traffic


class _Tensor(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _Tensor:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made: _Tensor = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{operator}: there is no device any more")


class _Device(TorchDispatchMode):
    """Computes."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        wanted = named.get("device")
        tensors = [each for each in tree_leaves((args, named)) if isinstance(each, torch.Tensor)]
        there = [each for each in tensors if isinstance(each, _Tensor)]
        if there and any(each.ndim for each in tensors if not isinstance(each, _Tensor)):
            raise RuntimeError(f"{operator}: tensors of two devices")
        if wanted is not None:
            named["device"] = torch.device("cpu")
        made = operator(*tree_map(_inner, args), **tree_map(_inner, named))
        goes = bool(there) if wanted is None else torch.device(wanted).type == DEVICE
        if operator is torch.ops.aten._to_copy.default and goes != bool(there):
            (self._traffic.sent if goes else self._traffic.fetched).append(tuple(made.shape))
        known = {id(each.inner): each for each in there}  # what is changed in place stays the same tensor

        def outer(part: Any) -> Any:
            return known[id(part)] if id(part) in known else _Tensor(part) if isinstance(part, torch.Tensor) else part

        return tree_map(outer, made) if goes else made


class _Creation(TorchFunctionMode):
    """Sees to it that ``asarray`` makes tensors of numbers, which PyTorch leaves out for this device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if function is torch.asarray and not isinstance(args[0], torch.Tensor):
            return torch.asarray(args[0], dtype=named.get("dtype")).to(named.get("device") or "cpu")
        return function(*args, **named)


def _inner(part: Any) -> Any:
    return part.inner if isinstance(part, _Tensor) else part
