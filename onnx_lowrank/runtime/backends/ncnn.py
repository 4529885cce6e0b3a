"""ncnn: pnnx converts ONNX into ncnn's two files, which are then loaded.

pnnx renames inputs and outputs to ``in0``, ``in1``, ``out0``, ... in the order of the graph, and leaves the axis of
samples out of what ncnn computes. A Python file that it writes says which axis that was of each of them (233 for none).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends.converter import run_converter
from onnx_lowrank.runtime.backends.fixed_shapes import FixedModel, write_fixed
from onnx_lowrank.runtime.backends.native_output import native_output
from onnx_lowrank.runtime.backends.staging import keep_only

_PARAM, _WEIGHTS, _SCRIPT = "model.ncnn.param", "model.ncnn.bin", "model_ncnn.py"
_NO_AXIS = 233  # of samples, in ncnn's own code
_TYPES = {"float32": "f32", "float64": "f64", "float16": "f16", "int32": "i32", "int64": "i64", "bool": "u8"}


class Ncnn:
    """ncnn on the CPU.

    Args:
        module: the package ``ncnn``.
        converter: path of the program ``pnnx``.
        threads: 0 for its own choice.
        precision: ``f32``, or None for its own choice: float16 on Arm processors that compute in it.
    """

    name, runs_parts = "ncnn", True

    def __init__(self, module: Any, converter: str, threads: int, precision: str | None = None) -> None:
        self._module, self._converter, self.threads = module, converter, threads
        half = precision is None and bool(module.cpu_support_arm_asimdhp())
        self.precision = "f16" if half else "f32"

    @property
    def version(self) -> str:
        """Version of ncnn."""
        return str(self._module.__version__)

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> _Prepared:
        """Convert the network by pnnx, its weights in float32.

        Raises:
            ModelError: pnnx cannot convert it.
        """
        fixed = write_fixed(model, feeds, folder)
        shapes = ",".join(
            f"[{','.join(map(str, values.shape))}]{_TYPES.get(str(values.dtype), 'f32')}"
            for values in fixed.feeds.values()
        )
        command = [self._converter, fixed.file.name, f"inputshape={shapes}", "fp16=0"]
        run_converter(command, folder, f"{fixed.where}: pnnx cannot convert it for ncnn", _PARAM)
        axes = _sample_axes((folder / _SCRIPT).read_text(encoding="utf-8"))
        keep_only(folder, {_PARAM, _WEIGHTS})
        return _Prepared(self, folder, fixed, axes)

    def new_net(self) -> Any:
        """Return an empty network with the threads and the precision that are wanted."""
        net = self._module.Net()
        if self.threads:
            net.opt.num_threads = self.threads
        if self.precision == "f32":
            net.opt.use_fp16_arithmetic = net.opt.use_fp16_storage = net.opt.use_fp16_packed = False
        return net

    def mat(self, values: NDArray[Any], axis: int) -> Any:
        """Return a copy of an array as ncnn holds it; whole numbers have 32 bits there.

        Args:
            values: of an input.
            axis: that counts samples.
        """
        kind = np.float32 if values.dtype.kind == "f" else np.int32
        return self._module.Mat(np.ascontiguousarray(values, kind), batch_index=axis).clone()


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A network that is loaded, and its inputs as ncnn holds them."""

    net: Any
    inputs: Mapping[str, Any]


@dataclass(eq=False)
class _Prepared:
    runtime: Ncnn
    folder: Path
    fixed: FixedModel
    axes: Mapping[str, int]

    def __post_init__(self) -> None:
        self._last: Callable[[], _Loaded | None] = lambda: None

    def open(self, outputs: Sequence[str] | None = None) -> _Running:
        """Load it, unless it is open already; only what is needed for the outputs is run.

        Raises:
            ModelError: ncnn cannot load it.
        """
        loaded = self._last() or self._load()
        self._last = weakref.ref(loaded)
        known = {name: f"out{position}" for position, name in enumerate(self.fixed.output_shapes)}
        wanted = known if outputs is None else {name: known[name] for name in outputs}
        return _Running(self, loaded, wanted)

    def _load(self) -> _Loaded:
        net = self.runtime.new_net()
        with native_output() as printed:
            failed = net.load_param(str(self.folder / _PARAM)) or net.load_model(str(self.folder / _WEIGHTS))
            words = printed()
        if failed:
            raise ModelError(f"{self.fixed.where}: ncnn cannot load it: {words or 'it says nothing'}")
        read = set(net.input_names())  # not those that nothing depends on
        inputs = {f"in{position}": values for position, values in enumerate(self.fixed.feeds.values())}
        return _Loaded(
            net,
            {
                name: self.runtime.mat(values, self.axes.get(name, _NO_AXIS))
                for name, values in inputs.items()
                if name in read
            },
        )


@dataclass(eq=False)
class _Running:
    _prepared: _Prepared
    _loaded: _Loaded | None
    _wanted: Mapping[str, str]

    def __post_init__(self) -> None:
        self._found: dict[str, Any] = {}

    def run(self) -> None:
        """Run it once.

        Raises:
            ModelError: it fails.
        """
        if self._loaded is None:
            raise ValueError("run after close")
        with self._loaded.net.create_extractor() as extractor:
            for name, values in self._loaded.inputs.items():
                extractor.input(name, values)
            for name, blob in self._wanted.items():
                failed, self._found[name] = extractor.extract(blob)
                if failed:
                    raise ModelError(
                        f"{self._prepared.fixed.where}: ncnn cannot run it: output '{name}' failed with code {failed}"
                    )

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return the outputs of the last run."""
        prepared = self._prepared
        return {
            name: prepared.fixed.in_onnx_shape(
                name, np.array(values.numpy(batch_index=prepared.axes.get(self._wanted[name], _NO_AXIS)))
            )
            for name, values in self._found.items()
        }

    def close(self) -> None:
        """Drop the network."""
        self._found.clear()
        self._loaded = None


def _sample_axes(script: str) -> dict[str, int]:
    """Read from the script that pnnx writes which axis of each input and output counts samples."""
    inputs = re.findall(r"ncnn\.Mat\((in\d+)\.numpy\(\), batch_index=(\d+)\)", script)
    outputs = re.findall(r"from_numpy\((out\d+)\.numpy\(batch_index=(\d+)\)\)", script)
    return {name: int(axis) for name, axis in [*inputs, *outputs]}
