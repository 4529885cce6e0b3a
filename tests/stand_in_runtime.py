"""A runtime that is onnxruntime with faults: for what is said and measured of runtimes, not for what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends import Prepared, Running
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from tests.helpers import CPU, Array, Feeds

Spoil = Callable[[int, Feeds], Feeds]


@dataclass
class StandIn:
    """Runs networks in onnxruntime, and changes what comes out.

    Attributes:
        spoil: gets the number of a network, counted as they are prepared, and its outputs.
        unable: numbers of the networks that it cannot convert.
        folders: where networks were prepared.
        log: what was opened and closed.
    """

    spoil: Spoil = lambda _, outputs: outputs
    unable: Sequence[int] = ()
    name: str = "ncnn"
    version: str = "7.0"
    precision: str = "f32"
    threads: int = 1
    runs_parts: bool = False
    folders: list[Path] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, Array], folder: Path) -> Prepared:
        number = len(self.folders)
        self.folders.append(folder)
        assert folder.is_dir()
        if number in self.unable:
            raise ModelError(f"model: pnnx cannot convert it for ncnn: no layer {number}")
        return _Prepared(self, number, OnnxRuntime(CPU).prepare(model, feeds, folder))


@dataclass
class _Prepared:
    runtime: StandIn
    number: int
    inner: Prepared

    def open(self, outputs: Sequence[str] | None = None) -> Running:
        self.runtime.log.append(f"open {self.number}")
        return _Running(self.runtime, self.number, self.inner.open(outputs))


@dataclass
class _Running:
    runtime: StandIn
    number: int
    inner: Running

    def run(self) -> None:
        self.inner.run()

    def outputs(self) -> Feeds:
        return self.runtime.spoil(self.number, self.inner.outputs())

    def close(self) -> None:
        self.runtime.log.append(f"close {self.number}")
        self.inner.close()
