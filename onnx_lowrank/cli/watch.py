"""Progress and log lines on stderr: bars on a terminal, short plain lines elsewhere."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from rich import progress
from rich.console import Console

from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.runtime.progress import Item, SampleCount

_LINE_INTERVAL_S = 5.0


class Watch(logging.Handler):
    """Shows stages and what the package logs.

    Every warning is shown once. Other messages wait for the first stage, so that an error before it stands alone.

    Args:
        console: where to write.
        quiet: show warnings only.
        words: words of the command line by Python name, see `onnx_lowrank.cli.messages`.
    """

    def __init__(self, console: Console, *, quiet: bool, words: dict[str, str]) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self._console = console
        self._quiet = quiet
        self._words = words
        self._waiting: list[str] | None = []
        self._warned: set[str] = set()
        self._bars: progress.Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show a log record."""
        text = with_flags(record.getMessage(), self._words)
        if record.levelno >= logging.WARNING:
            if text not in self._warned:
                self._warned.add(text)
                self._print(f"warning: {text}")
        elif self._waiting is None:
            self._print(text)
        else:
            self._waiting.append(text)

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        """Yield ``items`` while showing them as steps of ``stage``."""
        for text in self._waiting or ():
            self._print(text)
        self._waiting = None
        if self._quiet:
            return iter(items)
        if self._console.is_interactive:
            return iter(self._shown_bars().track(items, total=total, description=stage))
        return self._lines(items, stage, total)

    def stop(self) -> None:
        """Stop drawing and restore the terminal."""
        if self._bars is not None:
            self._bars.stop()

    def _shown_bars(self) -> progress.Progress:
        if self._bars is None:
            columns = (
                progress.TextColumn("{task.description:<8}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
            )
            self._bars = progress.Progress(*columns, console=self._console)
            self._bars.start()
        return self._bars

    def _lines(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        start = shown = time.monotonic()
        said = 0
        for step, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            done = max(step, items.done) if isinstance(items, SampleCount) else step  # with all others of its batch
            if done > said and (done == total or now - shown >= _LINE_INTERVAL_S):
                said, shown = done, now
                left = (now - start) / done * (total - done)
                self._print(f"{stage}: {done}/{total}" + (f", about {left:.0f} s left" if done < total else ""))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watching(*, quiet: bool) -> Iterator[Watch]:
    """Show progress and log lines inside the block.

    Args:
        quiet: show warnings only.

    Yields:
        An `onnx_lowrank.runtime.progress.Progress` for the library.
    """
    watch = Watch(Console(stderr=True), quiet=quiet, words=flags(click.get_current_context()))
    logger = logging.getLogger("onnx_lowrank")
    level = logger.level
    logger.addHandler(watch)
    logger.setLevel(logging.INFO)
    try:
        with _silent_decoders():
            yield watch
    finally:
        watch.stop()
        logger.removeHandler(watch)
        logger.setLevel(level)


@contextmanager
def _silent_decoders() -> Iterator[None]:
    """Silence Pillow on damaged images; the library leaves them out, counts and names them."""
    pillow = logging.getLogger("PIL")
    level = pillow.level
    pillow.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        pillow.setLevel(level)
