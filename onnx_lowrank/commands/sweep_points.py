"""The points of a sweep, and the files that hold them: written each time one more is done."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from onnx_lowrank import interruption
from onnx_lowrank.errors import LowRankError, MissingDependencyError, OutputError
from onnx_lowrank.graph import check_writable, write_texts
from onnx_lowrank.report import Calibration, CurvePoint, CurveReport, check_page_packages, curve_to_html, with_front
from onnx_lowrank.report.result import Result
from onnx_lowrank.report.text import fidelity_text
from onnx_lowrank.runtime.latency import Latency
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.stopwatch import peak_memory_bytes
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify import Comparison
from onnx_lowrank.verify.fidelity import limits
from onnx_lowrank.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sweep:
    """A finished sweep.

    Attributes:
        report: its numbers, see `onnx_lowrank.report.CurveReport`.
        results: the conversions whose targets were met, in the order of the points, if models were asked for.
    """

    report: CurveReport
    results: tuple[Result, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as a dictionary."""
        return self.report.to_dict()

    def to_html(self) -> str:
        """The numbers as one HTML page with charts, which loads nothing; needs the extra ``report``.

        Raises:
            MissingDependencyError: Jinja2 or matplotlib is not installed.
        """
        return curve_to_html(self.report)


@dataclass(frozen=True)
class SweepFiles:
    """The files of a sweep, in one folder.

    Attributes:
        folder: where they go.
        models: converted models by speedup; none where they are not asked for.
        page: whether pages can be made here.
    """

    folder: Path
    models: Mapping[float, Path] = field(default_factory=dict)
    page: bool = True

    @staticmethod
    def of(folder: Path, model: str | Path | onnx.ModelProto, speedups: Sequence[float]) -> SweepFiles:
        """Name the files of a sweep.

        Args:
            folder: where they go.
            model: the original; converted models are named after its file.
            speedups: of the models that are to be written.
        """
        stem = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
        return SweepFiles(folder, {each: folder / f"{stem}-{each:g}x.onnx" for each in speedups})

    @property
    def json(self) -> Path:
        """The numbers."""
        return self.folder / "sweep.json"

    @property
    def html(self) -> Path:
        """The page."""
        return self.folder / "sweep.html"

    @property
    def names(self) -> list[str]:
        """Names of all files that may be written."""
        reports = [path.with_suffix(".json") for path in self.models.values()]
        return [path.name for path in (self.json, self.html, *self.models.values(), *reports)]

    def check(self, *, force: bool) -> None:
        """Raise for a folder that files could not be written into.

        Args:
            force: overwrite existing files.

        Raises:
            OutputError: not a folder, cannot be made, or holds one of the files already.
        """
        if self.folder.is_dir():
            for name in self.names:
                check_writable(self.folder / name, force=force)
        elif self.folder.exists():
            raise OutputError(f"{self.folder}: is a file, wanted a folder: choose another name")
        else:
            check_writable(self.folder, force=False)

    def checked(self) -> SweepFiles:
        """Return the same without a page where none can be made here, with a warning."""
        try:
            check_page_packages(self.html.name)
        except MissingDependencyError as error:
            log.warning("%s is written alone: %s", self.json.name, error)
            return replace(self, page=False)
        return self

    def texts(self, sweep: Sweep) -> dict[Path, str]:
        """Return the contents of all files but the models."""
        texts = {self.json: sweep.report.to_json()}
        if self.page:
            texts[self.html] = sweep.to_html()
        return texts | model_reports(sweep.results)


def model_reports(results: Iterable[Result]) -> dict[Path, str]:
    """Return the contents of the reports beside the models that are written, by path."""
    reports = [result.report for result in results if result.report.output is not None]
    return {Path(report.output or "").with_suffix(".json"): report.to_json() for report in reports}


@dataclass(frozen=True, eq=False)
class SweepPoint:
    """A conversion to one speedup: a network or an error.

    Attributes:
        speedup: the target.
        seconds: that it took in all.
        result: the network and its report.
        comparison: of the network with the original.
        latency: of both; None where it was not measured, or not yet.
        error: why there is no network.
    """

    speedup: float
    seconds: float
    result: Result | None = None
    comparison: Comparison | None = None
    latency: Latency | None = None
    error: LowRankError | None = None

    @property
    def line(self) -> CurvePoint:
        """Its entry in the report."""
        if self.result is None:
            return CurvePoint(self.speedup, self.seconds, error=str(self.error))
        return CurvePoint.of_report(self.result.report, _accuracy(self.comparison, 1), self.seconds)


class SweepRecord:
    """Keeps the points of a sweep that are done, in its folder too.

    Args:
        settings: of all conversions.
        calibration: the samples.
        solved_images: number of samples that points are solved with.
        files: where to write; None for nowhere.
        monitor: counts the seconds of the sweep.
        models: keep the converted networks.
    """

    def __init__(
        self,
        settings: Settings,
        calibration: Calibration,
        solved_images: int,
        files: SweepFiles | None,
        monitor: Monitor,
        *,
        models: bool,
    ) -> None:
        self._settings, self._calibration, self._solved_images = settings, calibration, solved_images
        self._files, self._monitor, self._models = files, monitor, models
        self._unwritten = False  # whether a point came after the files were written
        self.points: list[SweepPoint] = []

    def add(self, point: SweepPoint) -> None:
        """Add a point, and write what there is so far; nothing before there is a network."""
        self.points.append(point)
        self._unwritten = True
        line = point.line
        if line.error is None:
            fewer, found = (line.speedups or {})["macs"], f"{line.measure} {fidelity_text(line)}"
            log.info("target %gx is done: %.2fx fewer multiply-adds, %s", point.speedup, fewer, found)
        if any(each.result for each in self.points):
            self.write(complete=False)

    def write(self, *, complete: bool) -> Sweep:
        """Write the files of all points so far.

        Raises:
            OutputError: one of them cannot be written.
        """
        results = [point.result for point in self.points if point.result is not None]
        sweep = Sweep(self._report(complete=complete), tuple(results) if self._models else ())
        if self._files is not None:
            write_texts(self._files.texts(sweep))
        self._unwritten = False
        return sweep

    @contextlib.contextmanager
    def kept(self, wanted: int) -> Iterator[None]:
        """Have an interruption inside the block say which points stay.

        Args:
            wanted: number of targets.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            done = sum(point.result is not None for point in self.points)
            if self._files is None or not done:
                raise
            interruption.acknowledge()
            if self._unwritten:  # the interruption came between a network and its line here
                self.write(complete=False)
            found = f"{done} of {wanted} targets are done and stay in {self._files.folder}"
            raise interruption.with_text(error, found) from error

    def _report(self, *, complete: bool) -> CurveReport:
        """Put the numbers of all points together."""
        first = next(point for point in self.points if point.result is not None)
        assert first.result is not None
        report, latency = first.result.report, first.latency
        return CurveReport(
            version=__version__,
            seed=self._settings.seed,
            input=report.input,
            cost=self._settings.cost,
            calibration=self._calibration,
            refine=self._settings.refine,
            solved_images=self._solved_images,
            held_out=first.comparison.images if first.comparison else 0,
            macs=report.macs[0],
            parameters=report.parameters[0],
            milliseconds=None if latency is None else latency.before.median_ms,
            accuracy=_accuracy(first.comparison, 0),
            latency=None if latency is None else _conditions(latency),
            points=with_front([point.line for point in self.points], self._settings.cost),
            seconds=self._monitor.total,
            peak_memory_bytes=peak_memory_bytes(),
            limits=limits(self._settings),
            complete=complete,
        )


def _conditions(latency: Latency) -> dict[str, Any]:
    """Return how latencies were measured."""
    return {key: value for key, value in latency.to_dict().items() if key in {"batch", "threads", "runtime"}}


def _accuracy(comparison: Comparison | None, model: int) -> dict[str, float] | None:
    """Return the accuracy by name, of the original (0) or of the converted network (1); None where it is not known."""
    if comparison is None or comparison.accuracy is None:
        return None
    return {name: pair[model] for name, pair in vars(comparison.accuracy).items()}
