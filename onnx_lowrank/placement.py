"""Which place it is that layers are solved at: the GPU of the provider where PyTorch can use it too, else the CPU."""

from __future__ import annotations

import logging

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.place import Place
from onnx_lowrank.provider import Provider

log = logging.getLogger(__name__)


def solving_place(provider: Provider) -> Place:
    """Where to solve.

    PyTorch, which takes a second to import, is looked for only where the provider runs on a GPU.

    Args:
        provider: where the network runs.
    """
    if provider.memory == "cpu":
        return Place()
    try:
        from onnx_lowrank.torch.rows import (  # noqa: PLC0415  (optional: installed by an extra)
            GIVES_UP,
            clear,
            has_cuda,
            to_device,
        )
    except (MissingDependencyError, OSError) as error:  # the latter where PyTorch lacks libraries that it was built for
        reason = str(error)
    else:
        if has_cuda():
            log.info("layers are solved on the GPU, by PyTorch")
            return Place(to_device, GIVES_UP, clear, one_by_one=True)
        reason = "PyTorch finds no CUDA device: install a build of PyTorch with CUDA"
    log.info("provider %s: layers are solved on the CPU all the same, since %s", provider.name, reason)
    return Place()
