"""The result of a conversion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnx_lowrank.graph import check_writable, staged
from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.report import Report, ReportFigures, to_html


@dataclass(frozen=True, eq=False)
class Result:
    """A finished conversion.

    Attributes:
        model: the converted model; None for a dry run.
        plan: the ranks it was converted with.
        report: what was done, in numbers.
        evidence: the curves and pictures that `to_html` shows with them.
    """

    model: onnx.ModelProto | None
    plan: RankPlan
    report: Report
    evidence: ReportFigures

    def written_to(self, path: Path | None) -> Result:
        """Return the same result with the path of the written model in its report; None for no path."""
        return replace(self, report=replace(self.report, output=None if path is None else str(path)))

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the converted model; the file is there whole or not at all.

        Args:
            path: where to.
            force: overwrite an existing file.

        Raises:
            OutputError: it exists, or cannot be written.
            ValueError: a dry run has no model.
        """
        if self.model is None:
            raise ValueError("a dry run has no model to save")
        check_writable(Path(path), force=force)
        with staged(self.model, Path(path)):
            pass

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON report as a dictionary."""
        return self.report.to_dict()

    def to_html(self) -> str:
        """Return the report as one HTML page with charts, which loads nothing; needs the extra ``report``.

        Raises:
            MissingDependencyError: Jinja2 or matplotlib is not installed.
        """
        return to_html(self.report, self.evidence)
