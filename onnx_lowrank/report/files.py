"""Where a conversion writes: the model, and the texts beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_lowrank.report.markdown import to_markdown
from onnx_lowrank.report.result import Result


@dataclass(frozen=True)
class OutputFiles:
    """The files that a conversion writes. Texts are written first, and the model gets its name last.

    Attributes:
        model: the converted model; an existing file is replaced. None writes none.
        reports: reports of it, in the format that the ending names: ``.json``, ``.md``, or ``.html`` with the extra
            ``report``.
        plan: its rank plan, JSON.
    """

    model: Path | None = None
    reports: tuple[Path, ...] = ()
    plan: Path | None = None

    @staticmethod
    def of(output: str | Path | OutputFiles | None) -> OutputFiles:
        """Return the files of a conversion of which only the model's path may be given."""
        if isinstance(output, OutputFiles):
            return output
        return OutputFiles(None if output is None else Path(output))

    def paths(self, *, dry_run: bool) -> list[Path]:
        """Return the files that are written; a dry run writes no model."""
        every = [*self.reports, self.plan, None if dry_run else self.model]
        return [path for path in every if path is not None]

    def texts(self, result: Result) -> dict[Path, str]:
        """Return the contents of all files but the model.

        Args:
            result: the conversion.

        Raises:
            MissingDependencyError: a page is wanted, and Jinja2 or matplotlib is not installed.
        """
        texts = {path: report_text(result, path) for path in self.reports}
        return texts if self.plan is None else texts | {self.plan: result.plan.to_json()}


def report_text(result: Result, path: Path) -> str:
    """Return a report in the format that the ending of its file names; JSON for any other ending."""
    match path.suffix.lower():
        case ".html":
            return result.to_html()
        case ".md":
            return to_markdown(result.report)
        case _:
            return result.report.to_json()
