"""Sessions of onnxruntime, and the choice of the provider that they run on."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lowrank import interruption
from onnx_lowrank.errors import MissingDependencyError, ModelError
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.library import load_cuda_libraries, load_onnxruntime
from onnx_lowrank.runtime.ort_values import Resident, external_initializers, numpy_type
from onnx_lowrank.runtime.plugin import open_plugin
from onnx_lowrank.runtime.processors import usable_cores
from onnx_lowrank.runtime.provider import EXECUTION_PROVIDERS, Provider

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

_ASSIGNMENT = "session.record_ep_graph_assignment_info"  # which operators run where
_PROVIDER_HINT = (
    "check the driver and the CUDA, cuDNN and TensorRT libraries, or use `provider='cpu'` "
    "(pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN)"
)


class RunError(ModelError):
    """onnxruntime does not take some inputs of a model.

    Attributes:
        reason: its own message.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Session:
    """A model ready to run.

    Args:
        model: a model, or the path of one.
        provider: where it runs.
        name: what to call it in error messages.
        optimized: let onnxruntime optimize the graph first.
        deployed: run it as a user would, to be timed; see `Provider.chain`.
        in_plugin: run it in the provider's plugin, if it has one; None for what is deployed. Everything else, graphs of
            a few layers or with inner tensors as outputs, runs on the CPU: plugins compile for seconds, may compute in
            few bits, and take no such graphs at times.

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
        in_plugin: bool | None = None,
    ) -> None:
        interruption.check()
        runtime = load_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = provider.threads
        if not deployed:
            # Threads that wait for work in a loop take the cores of other processes, and of other sessions here.
            options.intra_op_num_threads = provider.threads or usable_cores()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._name = name
        plugin = provider.plugin if (deployed if in_plugin is None else in_plugin) else None
        self._memory, self._has_plugin = provider.memory, plugin is not None
        try:
            source = str(model) if isinstance(model, Path) else model.SerializeToString()
            self._external = {} if isinstance(model, Path) else external_initializers(model)
            options.add_external_initializers(list(self._external), list(self._external.values()))
            # Where it tries again on the CPU, it prints that, which helps nobody. Standard output belongs to all
            # threads, so it is left alone where there is nothing else to try.
            retries = provider.memory == "cuda" or plugin is not None
            with redirect_stdout(io.StringIO()) if retries else nullcontext():
                if provider.memory == "cuda":
                    load_cuda_libraries()
                if plugin is None:
                    chain = provider.chain(deployed=deployed)
                    self._session = runtime.InferenceSession(
                        source, options, providers=chain, enable_fallback=int(retries)
                    )
                else:
                    options.add_session_config_entry(_ASSIGNMENT, "1")
                    plugin.add_to(options, options.intra_op_num_threads)
                    self._session = runtime.InferenceSession(source, options)
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
        """Names of the outputs that are tensors of numbers, not text, sequences or maps."""
        return tuple(value.name for value in self._session.get_outputs() if numpy_type(value.type) is not None)

    @property
    def floating_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are tensors of floating-point numbers."""
        types = {value.name: numpy_type(value.type) for value in self._session.get_outputs()}
        return tuple(name for name, dtype in types.items() if dtype is not None and dtype.kind == "f")

    @property
    def providers(self) -> tuple[str, ...]:
        """onnxruntime's names of the providers that have started."""
        return tuple(self._session.get_providers())

    @property
    def operators(self) -> dict[str, Counter[str]]:
        """How many operators of each type run on which provider, by onnxruntime's name of it.

        Of a plugin only, and from onnxruntime 1.24 on; empty where it does not say. A provider that takes no operator
        is among `providers` all the same.
        """
        ask = getattr(self._session, "get_provider_graph_assignment_info", None)
        found: dict[str, Counter[str]] = {}
        for part in ask() if ask and self._has_plugin else ():
            found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
        return found

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch of inputs.

        Args:
            feeds: arrays by input name.

        Returns:
            Arrays by output name.

        Raises:
            ModelError: onnxruntime fails on these inputs; its own message is kept.
        """
        with self._explained():
            values = self._session.run(None, dict(feeds))
        return dict(zip(self.outputs, values, strict=True))

    def run_resident(
        self, feeds: Mapping[str, NDArray[Any] | Resident], copied: Sequence[str]
    ) -> tuple[list[NDArray[Any]], dict[str, Resident]]:
        """Run one batch, copying some outputs and leaving the others where the model runs (I/O binding).

        Args:
            feeds: inputs by name; those that are where the model runs are not moved.
            copied: names of the outputs to copy.

        Returns:
            The copied outputs in this order, and the others by name.

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
                binding.bind_output(name, "cpu" if name in copied else self._memory)
            self._session.run_with_iobinding(binding)
            outputs = dict(zip(self.outputs, binding.get_outputs(), strict=True))
            arrays = [np.asarray(outputs.pop(name).numpy()) for name in copied]
        return arrays, {name: Resident(value) for name, value in outputs.items()}

    def bound(self, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """Bind a batch of inputs, copied to where the model runs, and outputs that stay there (I/O binding).

        Args:
            feeds: arrays by input name.

        Returns:
            A function that runs the model once and returns when all outputs are ready; it raises ModelError where
            that fails.

        Raises:
            ModelError: onnxruntime does not take these inputs; its own message is kept.
        """
        binding, values = self._session.io_binding(), load_onnxruntime().OrtValue
        with self._explained():
            for name, array in feeds.items():
                value = values.ortvalue_from_numpy(np.ascontiguousarray(array), self._memory, 0)
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, self._memory)

        is_bound = True

        def run_once() -> None:
            nonlocal is_bound
            if is_bound:
                try:
                    with self._explained():
                        self._session.run_with_iobinding(binding)
                        binding.synchronize_outputs()
                except ModelError as error:
                    # Bound, an output must have the shape that the model declares, which may be that of another size.
                    log.info("timed without bound outputs: %s", error)
                    is_bound = False
            if not is_bound:
                self.run(feeds)

        return run_once

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Name the model in the error when it cannot be run."""
        interruption.check()
        try:
            yield
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise RunError(f"{self._name}: onnxruntime cannot run it: {error}", str(error)) from error


def choose_provider(
    name: str = "auto", threads: int | None = None, library: str | PathLike[str] | None = None
) -> Provider:
    """Choose the provider to run on; ``auto`` takes CUDA where it starts, else the CPU; the library's first with one.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; with a library one of its providers, see `open_plugin`.
        threads: threads within an operator; None lets onnxruntime decide.
        library: file of a plugin provider; None for the providers that onnxruntime brings.

    Raises:
        MissingDependencyError: onnxruntime or the provider is not installed or does not start.
        ValueError: no such provider.
    """
    if library is not None:
        plugin = open_plugin(library, name)
        if threads and plugin.kind == "cpu" and not plugin.thread_options(threads):
            log.warning("provider %s: how it is told `threads` is not known here: it takes its own number", name)
        return Provider(plugin.ep_name if name == "auto" else name, threads or 0, plugin)
    if name not in {"auto", *EXECUTION_PROVIDERS}:
        raise ValueError(f"provider must be auto, cpu, cuda or tensorrt, got {name!r}; others need ep_library")
    available = load_onnxruntime().get_available_providers()
    if name == "auto":
        name = "cuda" if EXECUTION_PROVIDERS["cuda"] in available and _starts("cuda") else "cpu"
        if name == "cpu" and EXECUTION_PROVIDERS["cuda"] in available:
            log.warning("CUDA is installed but does not start, the CPU is taken: %s", _PROVIDER_HINT)
    elif EXECUTION_PROVIDERS[name] not in available:
        raise MissingDependencyError(
            f"provider '{name}': this onnxruntime has {', '.join(available)}, wanted {EXECUTION_PROVIDERS[name]}: "
            "pip uninstall onnxruntime; pip install 'onnx-lowrank[gpu]'"
        )
    elif not _starts(name):
        raise MissingDependencyError(
            f"provider '{name}': {EXECUTION_PROVIDERS[name]} is installed but does not start: {_PROVIDER_HINT}"
        )
    log.info("running on provider %s", name)
    return Provider(name, threads or 0)


def _starts(name: str) -> bool:
    """Return whether a provider runs a one-node model instead of falling back to the CPU."""
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
    return EXECUTION_PROVIDERS[name] in session.providers


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    dtype = numpy_type(value.type)
    if dtype is None:
        raise ModelError(f"input '{value.name}': type {value.type} is not supported, wanted a tensor of numbers")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    return TensorSpec(value.name, dtype, shape)
