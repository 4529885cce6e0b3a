"""The result of a fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import onnx

from onnx_lowrank.graph import check_writable, staged
from onnx_lowrank.metrics import Measured
from onnx_lowrank.torch.training.objective import Metrics
from onnx_lowrank.version import __version__


@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples.

    Attributes:
        loss: mean training loss.
        marks: metrics on the held-out samples, after the pass.
    """

    loss: float
    marks: Metrics


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        model: the best network on the held-out samples; the given one if no epoch was better.
        before: metrics of the given network.
        epochs: loss and metrics of each.
        best: number of the best epoch, the first is 1; 0 if none was better than before.
        learning_rate: at its peak.
        samples: numbers of training samples and of held-out samples.
        interrupted: whether it was ended by Ctrl-C.
        seconds: duration.
        process: number of the process it was run in, of those that trained together; the first is 0, and only that
            one writes.
        metric: of the original and of `model`; None without one.
    """

    model: onnx.ModelProto
    before: Metrics
    epochs: tuple[Epoch, ...]
    best: int
    learning_rate: float
    samples: tuple[int, int]
    interrupted: bool
    seconds: float
    process: int
    metric: Measured | None = None

    @property
    def after(self) -> Metrics:
        """Metrics of `model`."""
        return best_metrics(self.before, self.epochs, self.best)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the model; the file is complete or not there.

        Args:
            path: where to.
            force: overwrite an existing file.

        Raises:
            OutputError: it exists, or cannot be written.
        """
        check_writable(Path(path), force=force)
        with staged(self.model, Path(path)):
            pass

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the model as JSON values; NaN and infinity become None."""
        samples = {"training": self.samples[0], "held_out": self.samples[1]}
        epochs = [{"loss": each.loss, "marks": each.marks.to_dict()} for each in self.epochs]
        metrics = {"before": self.before.to_dict(), "after": self.after.to_dict(), "epochs": epochs}
        judged = {} if self.metric is None else {"metric": self.metric.to_dict()}
        others = {name: getattr(self, name) for name in ("best", "learning_rate", "interrupted", "seconds")}
        result: dict[str, Any] = _finite(
            {"schema": 1, "version": __version__, "samples": samples, **metrics, **judged, **others}
        )
        return result


def best_metrics(before: Metrics, epochs: tuple[Epoch, ...], best: int) -> Metrics:
    """Return the metrics of the best epoch, or those at the start if ``best`` is 0."""
    return epochs[best - 1].marks if best else before


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
