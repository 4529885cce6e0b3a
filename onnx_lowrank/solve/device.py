"""The device that layers are solved on: the provider's GPU where PyTorch can use it too, else the CPU.

PyTorch, which takes a second to import, is looked for only where the provider runs on a GPU; the solver needs PyTorch
alone, not the rest of the extra. Products stay in float32: PyTorch rounds their operands to TF32 only on request
(``torch.backends.cuda.matmul.allow_tf32``, off by default).
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
    """The device that layers are solved on; by default the CPU.

    Attributes:
        move: moves the targets of a layer to the device; the solver works where they are.
        failures: exceptions raised where memory does not suffice, or eigenvectors do not converge.
        free_unused: frees unused memory, which sessions on the device may need.
        one_by_one: whether it works on one layer at a time only: one keeps a GPU busy, and PyTorch fails where several
            threads are the first to use its linear algebra.
    """

    move: Callable[[TargetResponses], TargetResponses] = lambda targets: targets
    failures: tuple[type[Exception], ...] = ()
    free_unused: Callable[[], None] = lambda: None
    one_by_one: bool = False

    def run(self, work: Callable[[TargetResponses], Solved], targets: TargetResponses) -> Solved:
        """Run ``work`` on targets on the device, or on the CPU where that fails."""
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
    """Copy the targets of a layer as float32 tensors to a device; the probe's patches stay on the host.

    Args:
        targets: in NumPy.
        device: its name in PyTorch.
    """
    import torch  # noqa: PLC0415  (optional: installed by an extra)

    def moved(rows: Any) -> torch.Tensor:
        return torch.asarray(rows, dtype=torch.float32, device=device)

    residual = None if targets.residual is None else moved(targets.residual)
    return TargetResponses(moved(targets.responses), residual, targets.probe)
