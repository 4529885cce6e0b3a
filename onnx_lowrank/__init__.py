"""Makes convolutional ONNX models faster by low-rank factorization, without training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_lowrank.calibrate import Preprocessing, preset
    from onnx_lowrank.commands.bench import bench
    from onnx_lowrank.commands.benchmark import Benchmark, ModelTiming
    from onnx_lowrank.commands.compare import compare
    from onnx_lowrank.commands.inspect import Inspection, inspect
    from onnx_lowrank.commands.sweep import sweep
    from onnx_lowrank.commands.sweep_points import Sweep
    from onnx_lowrank.errors import (
        BudgetError,
        CalibrationError,
        LowRankError,
        MissingDependencyError,
        ModelError,
        OutputError,
        RankError,
        VerificationError,
    )
    from onnx_lowrank.layers.plan import LayerPlan, RankPlan
    from onnx_lowrank.pipeline import convert
    from onnx_lowrank.report.result import Result
    from onnx_lowrank.runtime.timing import Pace
    from onnx_lowrank.settings import Settings
    from onnx_lowrank.version import __version__

__all__ = [
    "Benchmark",
    "BudgetError",
    "CalibrationError",
    "Inspection",
    "LayerPlan",
    "LowRankError",
    "MissingDependencyError",
    "ModelError",
    "ModelTiming",
    "OutputError",
    "Pace",
    "Preprocessing",
    "RankError",
    "RankPlan",
    "Result",
    "Settings",
    "Sweep",
    "VerificationError",
    "__version__",
    "bench",
    "compare",
    "convert",
    "inspect",
    "preset",
    "sweep",
]

# Imported when they are asked for: the command line can then be interrupted while it starts, which takes a second.
_HOMES = {
    **dict.fromkeys(["Benchmark", "ModelTiming"], "commands.benchmark"),
    "bench": "commands.bench",
    **dict.fromkeys(["Preprocessing", "preset"], "calibrate"),
    **dict.fromkeys(["Inspection", "inspect"], "commands.inspect"),
    "compare": "commands.compare",
    "convert": "pipeline",
    **dict.fromkeys(["LayerPlan", "RankPlan"], "layers.plan"),
    "Result": "report.result",
    "Settings": "settings",
    **dict.fromkeys([name for name in __all__ if name.endswith("Error")], "errors"),
    "Sweep": "commands.sweep_points",
    "sweep": "commands.sweep",
    "Pace": "runtime.timing",
    "__version__": "version",
}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, those too that nobody has asked for yet."""
    return sorted(__all__)
