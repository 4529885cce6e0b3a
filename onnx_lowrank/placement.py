"""Where layers are solved: on the GPU of the provider where PyTorch can use it too, else on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.responses import Targets
from onnx_lowrank.runtime import Provider

log = logging.getLogger(__name__)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Place:
    """Where layers are solved; the CPU, unless said otherwise.

    Attributes:
        bring: brings the targets of a layer there; the solver works where they are.
        gives_up: what is raised where its memory does not suffice, or its library finds no eigenvectors.
        clear: gives back memory that is not in use any more, which sessions there may need.
    """

    bring: Callable[[Targets], Targets] = lambda targets: targets
    gives_up: tuple[type[Exception], ...] = ()
    clear: Callable[[], None] = lambda: None

    def solve(self, targets: Targets, work: Callable[[Targets], Made]) -> Made:
        """What ``work`` makes of targets here, or on the CPU where it fails here."""
        try:
            return work(self.bring(targets))
        except self.gives_up as error:
            log.warning("the GPU gave up on a layer, which is solved on the CPU: %s", error)
        finally:
            self.clear()
        return work(targets)


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
            return Place(to_device, GIVES_UP, clear)
        reason = "PyTorch finds no CUDA device: install a build of PyTorch with CUDA"
    log.info("provider %s: layers are solved on the CPU all the same, since %s", provider.name, reason)
    return Place()
