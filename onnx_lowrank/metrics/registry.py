"""The metrics that have a name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.protocol import Metric
from onnx_lowrank.metrics.user import UserMetric

# Functions that make a metric of its options (the text behind the colon), as ``file:function`` of this folder. They are
# imported when they are asked for: some need packages that not everyone has.
_BUILDERS = {
    "top1": "classes:top1",
    "top5": "classes:top5",
    "map": "detection:build",
    "miou": "segmentation:build",
    "cer": "reading:build",
    "cosine": "embedding:cosine",
    "recall1": "embedding:recall1",
}
METRIC_NAMES = tuple(_BUILDERS)


def as_metric(choice: Any) -> Metric:
    """Return what ``metric=`` says as a metric: a name with or without options, a function, or a metric.

    Args:
        choice: as in ``"top1"`` or ``"map:layout=yolox"``; a function as `onnx_lowrank.metrics.protocol` describes; or
            a metric.

    Raises:
        CalibrationError: see `metric_named`.
        TypeError: it is something else.
    """
    if isinstance(choice, str):
        name, _, options = choice.partition(":")
        return metric_named(name, options)
    if hasattr(choice, "prepare"):
        metric: Metric = choice
        return metric
    if not callable(choice):
        raise TypeError(f"metric must be a name or a function, got {type(choice).__name__}")
    return UserMetric(choice, getattr(choice, "__name__", type(choice).__name__))


def metric_named(name: str, options: str = "") -> Metric:
    """Return a metric by its name.

    Args:
        name: one of `METRIC_NAMES`.
        options: what follows the name and a colon, as in ``layout=yolox,score=0.5``; empty for none.

    Raises:
        CalibrationError: no metric has this name, or it does not take these options.
        MissingDependencyError: a package that it needs is not installed.
    """
    if name not in _BUILDERS:
        raise CalibrationError(
            f"metric '{name}': no metric has this name, one of {', '.join(METRIC_NAMES)} is wanted, or a function of "
            "your own: correct the name, or pass the function itself"
        )
    file, _, function = _BUILDERS[name].partition(":")
    build: Callable[[str], Metric] = getattr(import_module(f"{__package__}.{file}"), function)
    return build(options)
