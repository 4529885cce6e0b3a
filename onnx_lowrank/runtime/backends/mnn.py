"""MNN: its converter writes one file, which is loaded as a module of its expression API.

The converter is called through the compiled module ``_tools``, which does the work: the package's own program
``mnnconvert`` first installs a package with pip, into whatever Python comes first, and then reports what it converted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends.converter import run_converter
from onnx_lowrank.runtime.backends.fixed_shapes import FixedModel, write_fixed
from onnx_lowrank.runtime.backends.foreign_errors import as_model_error
from onnx_lowrank.runtime.backends.native_output import native_output
from onnx_lowrank.runtime.backends.staging import keep_only

_FILE = "model.mnn"
_CONVERTER = "import sys, _tools; _tools.mnnconvert(sys.argv)"
_CPU_BACKEND = 0


class Mnn:
    """MNN on the CPU, in float32.

    Args:
        module: the package ``MNN``.
        threads: 0 for its own choice.
    """

    name, precision, runs_parts = "mnn", "f32", True

    def __init__(self, module: Any, threads: int) -> None:
        self.module, self.threads = module, threads

    @property
    def version(self) -> str:
        """Version of MNN."""
        return str(self.module.version())

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> _Prepared:
        """Convert the network by MNN's converter.

        Raises:
            ModelError: it cannot be converted.
        """
        fixed = write_fixed(model, feeds, folder)
        options = ["-f", "ONNX", "--modelFile", fixed.file.name, "--MNNModel", _FILE, "--bizCode", "MNN"]
        command = [sys.executable, "-c", _CONVERTER, *options]
        run_converter(command, folder, f"{fixed.where}: MNNConvert cannot convert it", _FILE)
        keep_only(folder, {_FILE})
        return _Prepared(self, folder / _FILE, fixed)


@dataclass(frozen=True, eq=False)
class _Prepared:
    runtime: Mnn
    file: Path
    fixed: FixedModel

    def open(self, outputs: Sequence[str] | None = None) -> _Running:
        """Load what the outputs need.

        Raises:
            ModelError: MNN cannot load it.
        """
        wanted = list(self.fixed.output_shapes if outputs is None else outputs)
        config: dict[str, Any] = {"backend": _CPU_BACKEND, "precision": "high"}
        if self.runtime.threads:
            config["numThread"] = self.runtime.threads
        network = self.runtime.module.nn
        what = f"{self.fixed.where}: MNN cannot load it"
        with native_output() as printed, as_model_error(what, lambda error: f"{error} {printed()}"):
            manager = network.create_runtime_manager((config,))
            net = network.load_module_from_file(str(self.file), list(self.fixed.feeds), wanted, runtime_manager=manager)
            inputs = self._variables
        return _Running(self, net, inputs, wanted)

    @cached_property
    def _variables(self) -> list[Any]:
        """The inputs as MNN holds them."""
        return [self._variable(values) for values in self.fixed.feeds.values()]

    def _variable(self, values: NDArray[Any]) -> Any:
        """Return an array as MNN holds it; whole numbers have 32 bits there."""
        expr = self.runtime.module.expr
        kind, name = (np.float32, expr.float) if values.dtype.kind == "f" else (np.int32, expr.int)
        return expr.const(np.ascontiguousarray(values, kind), list(values.shape), expr.NCHW, name)


@dataclass(eq=False)
class _Running:
    _prepared: _Prepared
    _net: Any
    _inputs: Sequence[Any]
    _wanted: Sequence[str]

    def __post_init__(self) -> None:
        self._found: list[NDArray[Any]] = []

    def run(self) -> None:
        """Run it once.

        Raises:
            ModelError: it fails.
        """
        expr = self._prepared.runtime.module.expr
        try:
            variables = self._net.forward(list(self._inputs))
            # What is not read may not have been computed. Inside MNN channels come in fours, which ONNX does not know.
            self._found = [
                (expr.convert(each, expr.NCHW) if each.data_format == expr.NC4HW4 else each).read()
                for each in variables
            ]
        except Exception as error:  # as in foreign_errors, without its cost
            raise ModelError(f"{self._prepared.fixed.where}: MNN cannot run it: {error}") from error

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return the outputs of the last run."""
        found = zip(self._wanted, self._found, strict=True)
        return {name: self._prepared.fixed.in_onnx_shape(name, np.array(values)) for name, values in found}

    def close(self) -> None:
        """Drop the network."""
        self._net, self._inputs, self._found = None, [], []
