"""Networks in PyTorch: to train them, and to write them back into the same ONNX graph.

::

    module/     an ONNX graph as a PyTorch module, and back: `to_torch`, `from_torch`, `export_torch`
    training/   the converted network learns from the original: `finetune`

Everything here needs the extra: ``pip install 'onnx-lowrank[torch]'``. The rest of the package works without it;
`onnx_lowrank.solve.device`, which solves layers on a GPU, needs PyTorch alone.
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
        """Raise for every public name, as all of them need the missing package."""
        if name in __all__:
            raise MissingDependencyError(_reason)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
else:
    from onnx_lowrank.settings import FinetuneSettings
    from onnx_lowrank.torch.module.export import export_torch, save_program
    from onnx_lowrank.torch.module.from_module import from_torch
    from onnx_lowrank.torch.module.to_module import OnnxModule, to_torch
    from onnx_lowrank.torch.training.finetune import finetune
    from onnx_lowrank.torch.training.objective import Metrics as Marks  # the public name, which stays
    from onnx_lowrank.torch.training.result import Epoch, Finetuned
