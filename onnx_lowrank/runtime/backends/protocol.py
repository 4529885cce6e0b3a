"""What every runtime can do: take a network in ONNX, prepare it in its own format, and run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

Array = NDArray[Any]


class Running(Protocol):
    """A network that is loaded, with the inputs that it was prepared for."""

    def run(self) -> None:
        """Run it once; return when the outputs are there.

        Raises:
            ModelError: it fails, with the runtime's own words.
        """

    def outputs(self) -> dict[str, Array]:
        """Return what the last run computed.

        Returns:
            By the names and in the layout that outputs have in ONNX; outputs that are not tensors of numbers are left
            out.
        """

    def close(self) -> None:
        """Give its memory and threads back."""


class Prepared(Protocol):
    """A network in the runtime's own format."""

    def open(self, outputs: Sequence[str] | None = None) -> Running:
        """Load it.

        Args:
            outputs: names of the outputs that are wanted: where the runtime can, it runs only what these need. None for
                all.

        Raises:
            ModelError: it cannot be loaded, with the runtime's own words.
        """


class Runtime(Protocol):
    """A runtime, with the threads and the precision that it works with."""

    @property
    def name(self) -> str:
        """``onnxruntime``, ``openvino``, ``ncnn``, ``mnn``, ``litert`` or ``tensorrt``."""

    @property
    def version(self) -> str:
        """Of the runtime."""

    @property
    def precision(self) -> str:
        """What products are computed in: ``f32``, ``bf16``, ``f16`` or ``tf32``."""

    @property
    def threads(self) -> int:
        """Threads that it runs with; 0 for its own choice."""

    @property
    def runs_parts(self) -> bool:
        """Whether a network that is opened for some of its outputs runs only what these need."""

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, Array], folder: Path) -> Prepared:
        """Convert a network by the runtime's own converter.

        Args:
            model: the network.
            feeds: the batch of inputs that it is to run on; open axes get their sizes.
            folder: for what the converter writes; it must exist and stay as long as the network is used.

        Raises:
            ModelError: the converter cannot convert it, with its own words.
        """


@dataclass(frozen=True)
class RuntimeFacts:
    """What a report says of a runtime.

    Attributes:
        name: of the runtime.
        version: of the runtime.
        precision: what products are computed in.
        threads: 0 for its own choice.
    """

    name: str
    version: str
    precision: str
    threads: int

    @staticmethod
    def of(runtime: Runtime) -> RuntimeFacts:
        """Return the facts of a runtime."""
        return RuntimeFacts(runtime.name, runtime.version, runtime.precision, runtime.threads)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``runtime`` in JSON."""
        return dict(vars(self))
