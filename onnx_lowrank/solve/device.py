"""Where layers are solved: on the provider's GPU where PyTorch can use it too, else on the CPU.

PyTorch, which takes a second to import, is looked for only where the provider runs on a GPU; the solver needs PyTorch
alone, not the rest of the extra. Its products stay float32 all through: PyTorch rounds their operands to TF32 only
where it is told to (``torch.backends.cuda.matmul.allow_tf32``, off by default), which nobody here does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.runtime.provider import Provider

log = logging.getLogger(__name__)

Solved = TypeVar("Solved")


@dataclass(frozen=True)
class SolverDevice:
    """Where layers are solved; the CPU, unless said otherwise.

    Attributes:
        move: moves the targets of a layer to the device; the solver works where they are.
        failures: exceptions of a device whose memory does not suffice, or whose library finds no eigenvectors.
        free_unused: gives back memory that is not in use any more, which sessions there may need.
        one_by_one: whether it can work on one layer at a time only: a GPU is busy with one, and PyTorch fails where
            several threads are the first to ask for its linear algebra.
    """

    move: Callable[[TargetResponses], TargetResponses] = lambda targets: targets
    failures: tuple[type[Exception], ...] = ()
    free_unused: Callable[[], None] = lambda: None
    one_by_one: bool = False

    def run(self, work: Callable[[TargetResponses], Solved], targets: TargetResponses) -> Solved:
        """Run ``work`` on targets here, or on the CPU where it fails here."""
        try:
            return work(self.move(targets))
        except self.failures as error:
            log.warning("the GPU gave up on a layer, which is solved on the CPU: %s", error)
        finally:
            self.free_unused()
        return work(targets)


def solver_device(provider: Provider) -> SolverDevice:
    """Choose where to solve.

    Args:
        provider: where the network runs.
    """
    if provider.memory == "cpu":
        return SolverDevice()
    try:
        import torch  # noqa: PLC0415  (optional: installed by an extra)
    except (ImportError, OSError) as error:  # the latter where PyTorch lacks libraries that it was built for
        reason = f"PyTorch is not installed or does not load ({error}): pip install torch"
    else:
        if torch.cuda.is_available():
            log.info("layers are solved on the GPU, by PyTorch")
            # PyTorch documents the second, but its types leave it out.
            failures = (torch.cuda.OutOfMemoryError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
            return SolverDevice(to_device, failures, torch.cuda.empty_cache, one_by_one=True)
        reason = "PyTorch finds no CUDA device: install a build of PyTorch with CUDA"
    log.info("provider %s: layers are solved on the CPU all the same, since %s", provider.name, reason)
    return SolverDevice()


def to_device(targets: TargetResponses, device: str = "cuda") -> TargetResponses:
    """Copy the targets of a layer as float32 tensors to a device; the probe's patches are read from where they are.

    Args:
        targets: in NumPy.
        device: PyTorch's name of it.
    """
    import torch  # noqa: PLC0415  (optional: installed by an extra)

    def moved(rows: Any) -> torch.Tensor:
        return torch.asarray(rows, dtype=torch.float32, device=device)

    residual = None if targets.residual is None else moved(targets.residual)
    return TargetResponses(moved(targets.responses), residual, targets.probe)
