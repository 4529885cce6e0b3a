"""onnxruntime: runs ONNX as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_lowrank.runtime.library import version
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime on one of its execution providers, as a user would run it.

    Attributes:
        provider: where it runs.
    """

    provider: Provider
    name: str = "onnxruntime"
    runs_parts: bool = False

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return version()

    @property
    def precision(self) -> str:
        """What products of float32 are computed in: NVIDIA's tensor cores round their factors to TF32."""
        return "f32" if self.provider.name == "cpu" else "tf32"

    @property
    def threads(self) -> int:
        """Threads within an operator; 0 for its own choice."""
        return self.provider.threads

    def prepare(
        self,
        model: onnx.ModelProto | Path,
        feeds: Mapping[str, NDArray[Any]],
        folder: Path,  # noqa: ARG002  (there is nothing to convert)
    ) -> _Prepared:
        """Keep the model, which onnxruntime loads as it is."""
        return _Prepared(model, feeds, self.provider)


@dataclass(frozen=True, eq=False)
class _Prepared:
    model: onnx.ModelProto | Path
    feeds: Mapping[str, NDArray[Any]]
    provider: Provider

    def open(self, outputs: Sequence[str] | None = None) -> _Running:
        """Load it; all outputs are computed anyway, and only those wanted are returned."""
        session = Session(self.model, self.provider, deployed=True)
        return _Running(session, self.feeds, session.bound(self.feeds), outputs)


@dataclass(eq=False)
class _Running:
    _session: Session | None
    _feeds: Mapping[str, NDArray[Any]]
    _run: Callable[[], None] | None
    _wanted: Sequence[str] | None

    def run(self) -> None:
        """Run it once, inputs and outputs bound where it runs."""
        if self._run is None:
            raise ValueError("run after close")
        self._run()

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return what it computes, in a run of its own: bound outputs stay where the model runs."""
        if self._session is None:
            raise ValueError("outputs after close")
        found = self._session.run(self._feeds)
        wanted = self._session.numeric_outputs if self._wanted is None else self._wanted
        return {name: found[name] for name in wanted}

    def close(self) -> None:
        """Drop the session, whose threads end with it."""
        self._session = self._run = None
