"""OpenVINO: reads ONNX by its own frontend, and compiles for the processor when a model is opened.

Where the processor multiplies bfloat16 in hardware, OpenVINO computes in it unless told otherwise, as ``openvino:f32``
tells it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends.fixed_shapes import FixedModel, write_fixed
from onnx_lowrank.runtime.backends.foreign_errors import as_model_error

_DEVICE = "CPU"


class OpenVino:
    """OpenVINO on the CPU.

    Args:
        module: the package ``openvino``.
        threads: 0 for its own choice.
        precision: ``f32``, or None for its own choice.
    """

    name, runs_parts = "openvino", True

    def __init__(self, module: Any, threads: int, precision: str | None = None) -> None:
        self._module, self.threads = module, threads
        self._core = module.Core()
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        if precision:
            self._options["INFERENCE_PRECISION_HINT"] = precision
        self.precision = precision or str(self._core.get_property(_DEVICE, "INFERENCE_PRECISION_HINT").to_string())

    @property
    def version(self) -> str:
        """Version of OpenVINO, without the build."""
        return str(self._module.__version__).partition("-")[0]

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> _Prepared:
        """Read the network with the shapes of a batch.

        Raises:
            ModelError: OpenVINO cannot read it.
        """
        fixed = write_fixed(model, feeds, folder)
        with as_model_error(f"{fixed.where}: OpenVINO cannot read it", _words):
            network = self._core.read_model(str(fixed.file))
        return _Prepared(self, network, fixed)

    def compile(self, network: Any) -> Any:
        """Return a model compiled for the processor."""
        return self._core.compile_model(network, _DEVICE, self._options)

    def part(self, results: Sequence[Any], parameters: Sequence[Any]) -> Any:
        """Return a model of a part of another one's nodes."""
        return self._module.Model(results, parameters)

    def tensor(self, values: NDArray[Any]) -> Any:
        """Return a copy of an array as a tensor."""
        return self._module.Tensor(values.copy())


@dataclass(frozen=True, eq=False)
class _Prepared:
    runtime: OpenVino
    network: Any
    fixed: FixedModel

    def open(self, outputs: Sequence[str] | None = None) -> _Running:
        """Compile it, or what some outputs need.

        Raises:
            ModelError: OpenVINO cannot compile it, or does not take the inputs.
        """
        wanted = list(self.fixed.output_shapes if outputs is None else outputs)
        feeds = list(self.fixed.feeds.values())
        with as_model_error(f"{self.fixed.where}: OpenVINO cannot compile it", _words):
            parameters = self.network.get_parameters()
            network, read = self.network, list(range(len(parameters)))
            if outputs is not None:
                results = [self.network.get_results()[list(self.fixed.output_shapes).index(name)] for name in wanted]
                needed = _names_of_parameters(results)
                read = [number for number in read if parameters[number].get_friendly_name() in needed]
                network = self.runtime.part(results, [parameters[number] for number in read])
            request = self.runtime.compile(network).create_infer_request()
            for position, number in enumerate(read):
                request.set_input_tensor(position, self.runtime.tensor(feeds[number]))
        return _Running(self, request, wanted)


@dataclass(eq=False)
class _Running:
    _prepared: _Prepared
    _request: Any
    _wanted: Sequence[str]

    def run(self) -> None:
        """Run it once.

        Raises:
            ModelError: it fails.
        """
        try:
            self._request.infer()
        except Exception as error:  # as in foreign_errors, without its cost
            raise ModelError(f"{self._prepared.fixed.where}: OpenVINO cannot run it: {_words(error)}") from error

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return the outputs of the last run."""
        wanted = enumerate(self._wanted)
        return {name: np.array(self._request.get_output_tensor(position).data) for position, name in wanted}

    def close(self) -> None:
        """Drop the compiled model."""
        self._request = None


def _names_of_parameters(results: Sequence[Any]) -> set[str]:
    """Return the names of the inputs that results depend on."""
    names: set[str] = set()
    seen: set[str] = set()
    waiting = list(results)
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() == "Parameter":
            names.add(name)
        waiting += [value.get_node() for value in node.input_values()]
    return names


def _words(error: Exception) -> str:
    """Return what OpenVINO says, in one line, without the places in its sources."""
    lines = (line.strip() for line in str(error).splitlines())
    said = [line for line in lines if line and not line.startswith(("Exception from src", "Check '"))]
    return " ".join(said) or type(error).__name__
