"""TensorRT: its own ONNX parser and builder, called through NVIDIA's polygraphy, which also brings memory of the GPU.

No GPU was at hand to run this: it is tested with stand-ins for the two packages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends.fixed_shapes import FixedModel, write_fixed
from onnx_lowrank.runtime.backends.foreign_errors import as_model_error


class TensorRt:
    """TensorRT on an NVIDIA GPU, in TF32 as it comes.

    Args:
        backend: the package ``polygraphy.backend.trt``.
        memory: the package ``polygraphy.cuda``.
        version: of TensorRT.
    """

    name, precision, threads, runs_parts = "tensorrt", "tf32", 0, False

    def __init__(self, backend: Any, memory: Any, version: str) -> None:
        self.backend, self.memory, self.version = backend, memory, version

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> _Prepared:
        """Parse the network and build an engine, which may take minutes.

        Raises:
            ModelError: TensorRT cannot build it.
        """
        fixed = write_fixed(model, feeds, folder)
        trt = self.backend
        with as_model_error(f"{fixed.where}: TensorRT cannot build it"):
            network = trt.NetworkFromOnnxPath(str(fixed.file))
            engine = trt.EngineFromNetwork(network, config=trt.CreateConfig(tf32=True))()
        return _Prepared(self, engine, fixed)


@dataclass(frozen=True, eq=False)
class _Prepared:
    runtime: TensorRt
    engine: Any
    fixed: FixedModel

    def open(self, outputs: Sequence[str] | None = None) -> _Running:
        """Copy the inputs to the GPU; all outputs are computed anyway.

        Raises:
            ModelError: the engine does not start.
        """
        wanted = list(self.fixed.output_shapes if outputs is None else outputs)
        with ExitStack() as stack:
            with as_model_error(f"{self.fixed.where}: TensorRT cannot load it"):
                runner = stack.enter_context(self.runtime.backend.TrtRunner(self.engine))
                inputs = {}
                for name, values in self.fixed.feeds.items():
                    inputs[name] = stack.enter_context(self.runtime.memory.DeviceArray(values.shape, values.dtype))
                    inputs[name].copy_from(values)
            return _Running(self.fixed.where, runner, inputs, wanted, stack.pop_all())


@dataclass(eq=False)
class _Running:
    _where: str
    _runner: Any
    _inputs: Mapping[str, Any]
    _wanted: Sequence[str]
    _stack: ExitStack

    def run(self) -> None:
        """Run it once; inputs and outputs stay on the GPU.

        Raises:
            ModelError: it fails.
        """
        self._infer(copied=False)

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return what it computes, in a run of its own that copies the outputs."""
        found = self._infer(copied=True)
        return {name: np.array(found[name]) for name in self._wanted}

    def close(self) -> None:
        """Free its memory on the GPU."""
        self._stack.close()

    def _infer(self, *, copied: bool) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self._runner.infer(
                dict(self._inputs), check_inputs=False, copy_outputs_to_host=copied
            )
        except Exception as error:  # as in foreign_errors, without its cost
            raise ModelError(f"{self._where}: TensorRT cannot run it: {error}") from error
        return found
