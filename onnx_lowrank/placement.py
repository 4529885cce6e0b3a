"""Where layers are solved: on the GPU of the provider where PyTorch can use it too, else on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.responses import Targets
from onnx_lowrank.runtime import Provider

log = logging.getLogger(__name__)


def solving_place(provider: Provider) -> Callable[[Targets], Targets]:
    """What brings the targets of a layer to where it is solved; the solver works where they are.

    PyTorch, which takes a second to import, is looked for only where the provider runs on a GPU.

    Args:
        provider: where the network runs.
    """
    if provider.memory == "cpu":
        return _as_they_are
    try:
        from onnx_lowrank.torch.rows import has_cuda, to_device  # noqa: PLC0415  (optional: installed by an extra)
    except (MissingDependencyError, OSError) as error:  # the latter where PyTorch lacks libraries that it was built for
        reason = str(error)
    else:
        if has_cuda():
            log.info("layers are solved on the GPU, by PyTorch")
            return to_device
        reason = "PyTorch finds no CUDA device: install a build of PyTorch with CUDA"
    log.info("provider %s: layers are solved on the CPU all the same, since %s", provider.name, reason)
    return _as_they_are


def _as_they_are(targets: Targets) -> Targets:
    return targets
