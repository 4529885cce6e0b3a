"""The one wrapper of onnxruntime: which providers start, sessions, what a model's inputs look like."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lowrank.errors import MissingDependencyError, ModelError
from onnx_lowrank.graph.extract import extract
from onnx_lowrank.graph.index import probe_name
from onnx_lowrank.graph.tensors import is_external, values
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.provider import NAMES, Provider

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

_WHAT_TO_CHECK = (
    "check the driver and the CUDA, cuDNN and TensorRT libraries, or use `provider='cpu'` "
    "(pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN)"
)
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    **{name: np.dtype(name) for name in ("float16", "bool", *_INTEGERS)},
}


@dataclass(frozen=True, eq=False)
class Resident:
    """A tensor that is kept where sessions run, such as in the memory of a GPU.

    Attributes:
        value: onnxruntime's own.
    """

    value: onnxruntime.OrtValue

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return _NUMPY_TYPES[_element(self.value.data_type())]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(prod(self.value.shape())) * self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy in memory of the CPU."""
        return np.array(self.value.numpy())


class Session:
    """A model ready to run.

    Args:
        model: a model, or the path of one.
        provider: where it runs.
        name: what to call it in error messages.
        optimized: let onnxruntime rewrite the graph first.
        deployed: run it as a user would, see `Provider.chain`; to be timed.

    Raises:
        ModelError: onnxruntime cannot load the model; its own message is kept.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path,
        provider: Provider,
        *,
        name: str = "model",
        optimized: bool = True,
        deployed: bool = False,
    ) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = provider.threads
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._name = name
        self._memory = provider.memory
        try:
            source = str(model) if isinstance(model, Path) else model.SerializeToString()
            self._outside = {} if isinstance(model, Path) else _outside(model)
            options.add_external_initializers(list(self._outside), list(self._outside.values()))
            with redirect_stdout(io.StringIO()):  # it prints that it tries again, which does not help
                if provider.memory == "cuda":
                    _load_cuda_libraries()
                chain = provider.chain(deployed=deployed)
                self._session = runtime.InferenceSession(source, options, providers=chain)
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise ModelError(f"{name}: onnxruntime cannot load it: {error}") from error

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, type and shape of every input."""
        return tuple(_spec(value) for value in self._session.get_inputs())

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(value.name for value in self._session.get_outputs())

    @property
    def numeric_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are tensors of numbers, and neither texts nor sequences nor maps."""
        return tuple(value.name for value in self._session.get_outputs() if _element(value.type) in _NUMPY_TYPES)

    @property
    def providers(self) -> tuple[str, ...]:
        """onnxruntime's names of the providers that really started."""
        return tuple(self._session.get_providers())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name for one batch of inputs.

        Raises:
            ModelError: onnxruntime fails on these inputs; its own message is kept.
        """
        with self._explained():
            values = self._session.run(None, dict(feeds))
        return dict(zip(self.outputs, values, strict=True))

    def run_resident(
        self, feeds: Mapping[str, NDArray[Any] | Resident], copied: str
    ) -> tuple[NDArray[Any], dict[str, Resident]]:
        """One output as an array; the others left where the model runs, by name (I/O binding).

        Args:
            feeds: a batch of inputs; those that are where the model runs are not moved.
            copied: name of the output that is wanted as an array.

        Raises:
            ModelError: onnxruntime fails on these inputs; its own message is kept.
        """
        binding = self._session.io_binding()
        with self._explained():
            for name, value in feeds.items():
                if isinstance(value, Resident):
                    binding.bind_ortvalue_input(name, value.value)
                else:
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
            for name in self.outputs:
                binding.bind_output(name, "cpu" if name == copied else self._memory)
            self._session.run_with_iobinding(binding)
            found = dict(zip(self.outputs, binding.get_outputs(), strict=True))
            array = np.asarray(found.pop(copied).numpy())
        return array, {name: Resident(value) for name, value in found.items()}

    def bound(self, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """The model with a batch of inputs already where it runs and its outputs left there (I/O binding).

        Returns:
            A function that runs it once and comes back when all outputs are there; raises ModelError where that fails.
        """
        binding, values = self._session.io_binding(), _onnxruntime().OrtValue
        with self._explained():
            for name, array in feeds.items():
                value = values.ortvalue_from_numpy(np.ascontiguousarray(array), self._memory, 0)
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, self._memory)

        def run_once() -> None:
            with self._explained():
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()

        return run_once

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say which model it was that could not be run."""
        try:
            yield
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise ModelError(f"{self._name}: onnxruntime cannot run it: {error}") from error


def choose_provider(wanted: str = "auto", threads: int | None = None) -> Provider:
    """The provider to run on; ``auto`` takes CUDA where it starts, else the CPU.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
        threads: threads within an operator; None lets onnxruntime decide.

    Raises:
        MissingDependencyError: onnxruntime or the wanted provider is not installed or does not start.
        ValueError: no such provider.
    """
    if wanted not in {"auto", *NAMES}:
        raise ValueError(f"provider must be auto, cpu, cuda or tensorrt, got {wanted!r}")
    available = _onnxruntime().get_available_providers()
    if wanted == "auto":
        wanted = "cuda" if NAMES["cuda"] in available and _starts("cuda") else "cpu"
        if wanted == "cpu" and NAMES["cuda"] in available:
            log.warning("CUDA is installed but does not start, the CPU is taken: %s", _WHAT_TO_CHECK)
    elif NAMES[wanted] not in available:
        raise MissingDependencyError(
            f"provider '{wanted}': this onnxruntime has {', '.join(available)}, wanted {NAMES[wanted]}: "
            "pip uninstall onnxruntime; pip install 'onnx-lowrank[gpu]'"
        )
    elif not _starts(wanted):
        raise MissingDependencyError(
            f"provider '{wanted}': {NAMES[wanted]} is installed but does not start: {_WHAT_TO_CHECK}"
        )
    log.info("running on provider %s", wanted)
    return Provider(wanted, threads or 0)


def observe_shapes(
    model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], tensors: Sequence[str], provider: Provider
) -> dict[str, tuple[int, ...]]:
    """Shapes that inner tensors really have, by running the model once; no shape inference to be fooled.

    Args:
        model: the network.
        feeds: one batch of inputs.
        tensors: names of the tensors to look at.
        provider: where to run.

    Returns:
        Shape by tensor name.
    """
    known = {name: value.shape for name, value in feeds.items()}
    unknown = [name for name in tensors if name not in known]
    if not unknown:
        return {name: known[name] for name in tensors}
    found = {name: probe_name(name, "shape") for name in unknown}
    nodes = [onnx.helper.make_node("Shape", [name], [shape]) for name, shape in found.items()]
    outputs = [onnx.helper.make_tensor_value_info(shape, TensorProto.INT64, None) for shape in found.values()]
    inputs = [value for value in model.graph.input if value.name in feeds]
    # Optimized, a shape that the graph promises would be taken for granted.
    shapes = Session(extract(model, inputs, outputs, nodes), provider, optimized=False).run(feeds)
    known |= {name: tuple(int(size) for size in shapes[shape]) for name, shape in found.items()}
    return {name: known[name] for name in tensors}


def silence() -> None:
    """Have onnxruntime print nothing by itself in this process; what it has to say is in its exceptions."""
    _onnxruntime().set_default_logger_severity(4)


def version() -> str:
    """Version of onnxruntime."""
    return str(_onnxruntime().__version__)


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415  (optional: installed by an extra)
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed: pip install 'onnx-lowrank[cpu]', "
            "or 'onnx-lowrank[gpu]' for CUDA and TensorRT"
        ) from error
    return onnxruntime


@cache
def _load_cuda_libraries() -> None:
    """Load CUDA's and cuDNN's libraries where pip installed them: onnxruntime does not look there by itself."""
    preload = getattr(_onnxruntime(), "preload_dlls", None)  # since 1.21
    if preload is None:
        return
    with redirect_stdout(io.StringIO()) as said:
        preload()
    for line in filter(None, said.getvalue().splitlines()):
        log.info("onnxruntime: %s", line)


def _outside(model: onnx.ModelProto) -> dict[str, Any]:
    """The initializers whose values are in files, by name, mapped for onnxruntime."""
    make = _onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type
    external = [tensor for tensor in model.graph.initializer if is_external(tensor)]
    return {tensor.name: make(values(tensor), tensor.data_type) for tensor in external}


def _starts(name: str) -> bool:
    """Whether a provider comes up with a one-node model instead of falling back to the CPU."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "probe",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    try:
        session = Session(model, Provider(name), deployed=True)
        session.run({"x": np.zeros(1, np.float32)})
    except ModelError as error:
        log.info("provider %s does not start: %s", name, error)
        return False
    return NAMES[name] in session.providers


def _element(kind: str) -> str:
    """Element type of a tensor as onnxruntime writes it; of anything else, what that is."""
    return kind.removeprefix("tensor(").removesuffix(")")


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    kind = _element(value.type)
    if kind not in _NUMPY_TYPES:
        raise ModelError(f"input '{value.name}': type {value.type} is not supported, wanted a tensor of numbers")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    return TensorSpec(value.name, _NUMPY_TYPES[kind], shape)
