"""A place to solve layers at, with the CPU to fall back on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from onnx_lowrank.responses import Targets

log = logging.getLogger(__name__)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Place:
    """Where layers are solved; the CPU, unless said otherwise.

    Attributes:
        bring: brings the targets of a layer there; the solver works where they are.
        gives_up: what is raised where its memory does not suffice, or its library finds no eigenvectors.
        clear: gives back memory that is not in use any more, which sessions there may need.
        one_by_one: whether one layer at a time is all that it can work on: a GPU is busy with one, and PyTorch fails
            where several threads are the first to ask for its linear algebra.
    """

    bring: Callable[[Targets], Targets] = lambda targets: targets
    gives_up: tuple[type[Exception], ...] = ()
    clear: Callable[[], None] = lambda: None
    one_by_one: bool = False

    def solve(self, targets: Targets, work: Callable[[Targets], Made]) -> Made:
        """What ``work`` makes of targets here, or on the CPU where it fails here."""
        try:
            return work(self.bring(targets))
        except self.gives_up as error:
            log.warning("the GPU gave up on a layer, which is solved on the CPU: %s", error)
        finally:
            self.clear()
        return work(targets)
