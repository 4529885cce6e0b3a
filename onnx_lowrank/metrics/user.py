"""A metric that is a function of the user's."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.protocol import MetricFunction, MetricSamples, Predictor, PreparedMetric


@dataclass(frozen=True, eq=False)
class UserMetric:
    """A metric from a function of the user's, whose errors become errors of ours that say where.

    Attributes:
        function: see `onnx_lowrank.metrics.protocol`.
        name: what reports call it.
    """

    function: MetricFunction
    name: str

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:  # noqa: ARG002  (the protocol)
        """Return the function; it finds the truth by itself."""
        return PreparedMetric(self)

    def __call__(self, predictor: Predictor, samples: MetricSamples) -> Any:
        """Call the function.

        Raises:
            CalibrationError: it raises anything.
        """
        try:
            return self.function(predictor, samples)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise CalibrationError(
                f"metric {self.name}: failed with {type(error).__name__}: {error} ({_place(error)}): correct it"
            ) from error


def _place(error: BaseException) -> str:
    """Return file and line of the innermost call outside of installed packages, this one among them."""
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(__file__).parents[1]
    theirs = [each for each in frames if own not in Path(each.filename).parents and not _is_installed(each.filename)]
    last = (theirs or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _is_installed(file: str) -> bool:
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))
