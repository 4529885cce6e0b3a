"""Makes convolutional ONNX models faster by low-rank factorization, without training."""

from onnx_lowrank.benchmark import Benchmark, ModelTiming, bench
from onnx_lowrank.calibrate import Preprocessing, preset
from onnx_lowrank.examine import Inspection, compare, inspect
from onnx_lowrank.pipeline import Result, convert
from onnx_lowrank.plan import LayerPlan, RankPlan
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify import Pace
from onnx_lowrank.version import __version__

__all__ = [
    "Benchmark",
    "Inspection",
    "LayerPlan",
    "ModelTiming",
    "Pace",
    "Preprocessing",
    "RankPlan",
    "Result",
    "Settings",
    "__version__",
    "bench",
    "compare",
    "convert",
    "inspect",
    "preset",
]
