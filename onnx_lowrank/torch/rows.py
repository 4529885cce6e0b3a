"""Rows of a layer where PyTorch works on them. The solver needs PyTorch alone, not the rest of the extra.

Its products stay float32 all through: PyTorch rounds what goes into them to TF32 only where it is told to
(``torch.backends.cuda.matmul.allow_tf32``, off by default), and nobody here tells it.
"""

from __future__ import annotations

from typing import Any

import torch

from onnx_lowrank.responses import Targets

# What a GPU may raise where a CPU would not. PyTorch documents the second, but its types leave it out.
GIVES_UP = (torch.cuda.OutOfMemoryError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def has_cuda() -> bool:
    """Whether PyTorch was built with CUDA and finds a device."""
    return torch.cuda.is_available()


def to_device(targets: Targets, device: str = "cuda") -> Targets:
    """The targets of a layer as float32 tensors on a device; the probe's patches are read from where they are."""

    def moved(rows: Any) -> torch.Tensor:
        return torch.asarray(rows, dtype=torch.float32, device=device)

    residual = None if targets.residual is None else moved(targets.residual)
    return Targets(moved(targets.responses), residual, targets.probe)


def clear() -> None:
    """Have PyTorch give back the GPU's memory that it keeps for later."""
    torch.cuda.empty_cache()
