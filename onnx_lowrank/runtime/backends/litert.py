"""LiteRT, once TensorFlow Lite: onnx2tf converts ONNX into a ``.tflite`` file.

Both work on channels-last maps. onnx2tf moves the channels of inputs with three to five axes, of images and of what
only looks like them; it is told to keep every input as it is but for those that convolutions read directly. Outputs
come in either layout, as it suits the operator that computes them.

onnx2tf wants its own releases of NumPy and ONNX, so it stays in an environment of its own and is called as a program.
It fetches photographs from the internet to run the network on, unless a file of their name is in the folder where it
runs: such a file is put there.
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
from onnx_lowrank.runtime.backends.converter import run_converter
from onnx_lowrank.runtime.backends.fixed_shapes import FixedModel, write_fixed
from onnx_lowrank.runtime.backends.foreign_errors import as_model_error
from onnx_lowrank.runtime.backends.native_output import native_output
from onnx_lowrank.runtime.backends.staging import keep_only
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

_FILE = "model_float32.tflite"
_TEST_IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"
# Modules found through PYTHONPATH are this environment's, and may be of another Python than onnx2tf's.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": None, "PYTHONHOME": None}


class LiteRt:
    """LiteRT on the CPU, with its kernels for it (XNNPACK), in float32.

    Args:
        module: the package ``ai_edge_litert.interpreter``.
        version: of ``ai-edge-litert``.
        converter: path of the program ``onnx2tf``.
        threads: 0 for its own choice.
    """

    name, precision, runs_parts = "litert", "f32", False

    def __init__(self, module: Any, version: str, converter: str, threads: int) -> None:
        self.module, self.version, self._converter, self.threads = module, version, converter, threads

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> _Prepared:
        """Convert the network by onnx2tf, which takes seconds; releases before 2 take minutes where weights are many.

        Raises:
            ModelError: onnx2tf cannot convert it.
        """
        fixed = write_fixed(model, feeds, folder)
        np.save(folder / _TEST_IMAGES, np.zeros((20, 128, 128, 3), np.float32))
        loaded = onnx.load(fixed.file, load_external_data=False)
        moved = _read_by_convolutions(loaded.graph)
        names = _plain_names(loaded.graph)
        onnx.save(loaded, fixed.file)
        kept = [names[name] for name in fixed.feeds if name not in moved]
        keep = ["-kat", *kept] if kept else []
        command = [self._converter, "-i", fixed.file.name, "-o", ".", "-coion", *keep]
        run_converter(command, folder, f"{fixed.where}: onnx2tf cannot convert it", _FILE, _ENVIRONMENT)
        keep_only(folder, {_FILE, fixed.file.name, f"{fixed.file.name}.data"})
        return _Prepared(self, folder / _FILE, fixed, frozenset(moved & fixed.feeds.keys()), names)


@dataclass(frozen=True, eq=False)
class _Prepared:
    runtime: LiteRt
    file: Path
    fixed: FixedModel
    moved: frozenset[str]  # inputs whose channels are last now
    names: Mapping[str, str]  # of inputs and outputs in the converted network

    def in_onnxruntime(self) -> dict[str, NDArray[Any]]:
        """Return what onnxruntime computes, by the names of outputs in the original."""
        feeds = {self.names[name]: values for name, values in self.fixed.feeds.items()}
        found = Session(self.fixed.file, Provider(), name=self.fixed.where).run(feeds)
        return {name: found[self.names[name]] for name in self.fixed.output_shapes}

    def open(self, outputs: Sequence[str] | None = None) -> _Running:
        """Load it; all outputs are computed anyway.

        Raises:
            ModelError: LiteRT cannot load it, or does not take the inputs.
        """
        wanted = list(self.fixed.output_shapes if outputs is None else outputs)
        what = f"{self.fixed.where}: LiteRT cannot load it"
        with native_output() as printed, as_model_error(what, lambda error: f"{error!r} {printed()}"):
            interpreter = self.runtime.module.Interpreter(str(self.file), num_threads=self.runtime.threads or None)
            interpreter.allocate_tensors()
            inputs, places = _places(interpreter, list(self.names.values()))
            for name, values in self.fixed.feeds.items():
                if (place := inputs.get(self.names[name])) is None:  # nothing depends on it
                    continue
                moved = np.moveaxis(values, 1, -1) if name in self.moved else values
                interpreter.set_tensor(place["index"], np.ascontiguousarray(moved, place["dtype"]))
            indices = {name: places[self.names[name]]["index"] for name in wanted}  # names may have been changed
        return _Running(self, interpreter, indices)


@dataclass(eq=False)
class _Running:
    _prepared: _Prepared
    _interpreter: Any
    _indices: Mapping[str, int]

    def run(self) -> None:
        """Run it once.

        Raises:
            ModelError: it fails.
        """
        try:
            self._interpreter.invoke()
        except Exception as error:  # as in foreign_errors, without its cost
            raise ModelError(f"{self._prepared.fixed.where}: LiteRT cannot run it: {error}") from error

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return the outputs of the last run."""
        fixed = self._prepared.fixed
        found = {name: np.array(self._interpreter.get_tensor(index)) for name, index in self._indices.items()}
        unclear = [name for name, values in found.items() if _has_two_layouts(values, fixed.output_shapes[name])]
        wanted = self._prepared.in_onnxruntime() if unclear else {}
        return {name: _channels_first(values, fixed, name, wanted.get(name)) for name, values in found.items()}

    def close(self) -> None:
        """Drop the interpreter."""
        self._interpreter = None


def _places(interpreter: Any, names: Sequence[str]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return where inputs and outputs are, by name.

    onnx2tf writes no names into some networks. With one input and one output there is nothing to confuse.

    Args:
        interpreter: with its tensors allocated.
        names: of all inputs and outputs, in order.

    Raises:
        ValueError: there are no names, and several inputs or outputs.
    """
    if interpreter.get_signature_list():
        signature = interpreter.get_signature_runner()
        return signature.get_input_details(), signature.get_output_details()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(names) != 2 or (len(inputs), len(outputs)) != (1, 1):
        raise ValueError("onnx2tf has left out the names of its inputs and outputs, of which there are several")
    return {names[0]: inputs[0]}, {names[1]: outputs[0]}


def _plain_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Rename nodes, inputs and outputs of a graph: TensorFlow takes no ``@`` or ``.`` in names, ONNX takes anything.

    Args:
        graph: changed in place.

    Returns:
        New names of inputs and outputs by their old ones.
    """
    names = {value.name: f"input_{position}" for position, value in enumerate(graph.input)}
    for position, value in enumerate(graph.output):
        names.setdefault(value.name, f"output_{position}")
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    _rename(graph, names)
    for position, node in enumerate(graph.node):
        node.name = f"node_{position}"
    return names


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename what nodes read and make, those in subgraphs too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, names)


def _read_by_convolutions(graph: onnx.GraphProto) -> set[str]:
    """Return the inputs that convolutions read, and nothing else."""
    readers: dict[str, set[str]] = {value.name: set() for value in graph.input}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in readers:
                readers[name].add(node.op_type if position == 0 else "weight")
    outputs = {value.name for value in graph.output}
    return {name for name, types in readers.items() if types == {"Conv"} and name not in outputs}


def _has_two_layouts(values: NDArray[Any], shape: tuple[int, ...] | None) -> bool:
    """Return whether the shape does not tell where the channels are."""
    return values.ndim >= 3 and shape == values.shape == np.moveaxis(values, -1, 1).shape and values.shape[1] > 1


def _channels_first(values: NDArray[Any], fixed: FixedModel, name: str, wanted: NDArray[Any] | None) -> NDArray[Any]:
    """Return an output in ONNX's layout.

    Args:
        values: as LiteRT has it.
        fixed: knows the shape in ONNX.
        name: of the output.
        wanted: what onnxruntime computes, to tell the layouts apart where the shapes do not.
    """
    moved = np.moveaxis(values, -1, 1) if values.ndim >= 3 else values
    if wanted is not None:
        distances = [float(np.linalg.norm(each.astype(np.float64) - wanted)) for each in (values, moved)]
        return moved if distances[1] < distances[0] else values
    is_moved = values.shape != fixed.output_shapes[name] == moved.shape
    return np.ascontiguousarray(moved) if is_moved else fixed.in_onnx_shape(name, values)
