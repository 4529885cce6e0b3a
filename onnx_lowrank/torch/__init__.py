"""A network in PyTorch, to be trained on, and back in the same ONNX graph.

::

    to_module.py    graph -> module: `to_torch`
    from_module.py  module -> the same graph with its weights: `from_torch`
    weights.py      which tensors are trained, and under which names
    layers.py       the operators with weights; resize.py, indexing.py: a few others; library.py: the rest
    sizes.py        the arithmetic of sizes, which stays outside of PyTorch
    finetune.py     `finetune`: the converted network learns from the original; settings.py: its knobs
    export.py       `export_torch`: a program of torch.export
    course.py       what is fixed before the first step; lessons.py: samples, augment.py: flips and shifts
    objective.py    what is made small, and what it is judged by
    balance.py      factors of a layer brought to the same size; normalize.py: batch normalization while training
    optimizer.py    steps that move all directions of a weight alike
    trainer.py      steps and marks; learning_rate.py: found by trying; checkpoint.py: to go on from
    rows.py         rows of a layer for the solver

It needs the extra: ``pip install 'onnx-lowrank[torch]'``; `onnx_lowrank.solve.device` needs PyTorch alone.
"""

from typing import Any

from onnx_lowrank.errors import MissingDependencyError

_MISSING = "onnx_lowrank.torch: PyTorch or what belongs to it is not installed ({}): pip install 'onnx-lowrank[torch]'"

__all__ = [
    "Epoch",
    "FinetuneSettings",
    "Finetuned",
    "Marks",
    "OnnxModule",
    "export_torch",
    "finetune",
    "from_torch",
    "save_program",
    "to_torch",
]

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise MissingDependencyError(_MISSING.format(_error)) from _error

try:
    import accelerate as _accelerate  # noqa: F401
    import safetensors as _safetensors  # noqa: F401
except ImportError as _error:
    _reason = _MISSING.format(_error)

    def __getattr__(name: str) -> Any:
        """Say what is missing where a public name is asked for, all of which need it."""
        if name in __all__:
            raise MissingDependencyError(_reason)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
else:
    from onnx_lowrank.settings import FinetuneSettings
    from onnx_lowrank.torch.module.export import export_torch, save_program
    from onnx_lowrank.torch.module.from_module import from_torch
    from onnx_lowrank.torch.module.to_module import OnnxModule, to_torch
    from onnx_lowrank.torch.training.finetune import Epoch, Finetuned, finetune
    from onnx_lowrank.torch.training.objective import Marks
