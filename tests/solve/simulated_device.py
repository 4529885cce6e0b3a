"""A simulated device of PyTorch: tensors that the CPU computes and that report the device ``meta``.

It is stricter than a GPU: numbers get there and back by copies alone, which are recorded; its tensors mix with none of
the host's, except with single numbers; NumPy cannot read them.
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
    """Shapes of the tensors sent to the device and fetched from it."""

    sent: list[tuple[int, ...]] = field(default_factory=list)
    fetched: list[tuple[int, ...]] = field(default_factory=list)


@contextmanager
def simulated_device() -> Iterator[Traffic]:
    """Provide the device while the block runs."""
    traffic = Traffic()
    with _Device(traffic), _Creation():
        yield traffic


class _Tensor(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _Tensor:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        wrapper: _Tensor = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **layout)
        wrapper.inner = inner
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{operator}: there is no device any more")


class _Device(TorchDispatchMode):
    """Runs operators on the CPU and wraps the results that are on the device."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        device = named.get("device")
        tensors = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, torch.Tensor)]
        on_device = [tensor for tensor in tensors if isinstance(tensor, _Tensor)]
        if on_device and any(tensor.ndim for tensor in tensors if not isinstance(tensor, _Tensor)):
            raise RuntimeError(f"{operator}: tensors of two devices")
        if device is not None:
            named["device"] = torch.device("cpu")
        result = operator(*tree_map(_inner, args), **tree_map(_inner, named))
        stays = bool(on_device) if device is None else torch.device(device).type == DEVICE
        if operator is torch.ops.aten._to_copy.default and stays != bool(on_device):
            (self._traffic.sent if stays else self._traffic.fetched).append(tuple(result.shape))
        wrappers = {id(tensor.inner): tensor for tensor in on_device}  # a tensor changed in place stays the same

        def outer(part: Any) -> Any:
            if id(part) in wrappers:
                return wrappers[id(part)]
            return _Tensor(part) if isinstance(part, torch.Tensor) else part

        return tree_map(outer, result) if stays else result


class _Creation(TorchFunctionMode):
    """Lets ``asarray`` make tensors of numbers, which PyTorch does not do for this device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if function is torch.asarray and not isinstance(args[0], torch.Tensor):
            return torch.asarray(args[0], dtype=named.get("dtype")).to(named.get("device") or "cpu")
        return function(*args, **named)


def _inner(part: Any) -> Any:
    return part.inner if isinstance(part, _Tensor) else part
