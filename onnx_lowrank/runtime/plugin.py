"""Plugin execution providers: libraries that onnxruntime loads at run time, and the devices that they offer.

A plugin is no part of onnxruntime's list of providers. Its library is registered under a name, once in a process; after
that its devices are among those of onnxruntime, and a session takes one of them. Registered libraries stay so until
the process ends, since sessions may hold on to them.

Some libraries log to standard error by themselves when they are registered; that is theirs to decide.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.runtime.library import load_onnxruntime, version

log = logging.getLogger(__name__)

_SUFFIX = "executionprovider"  # of most names
_KINDS = ("cpu", "gpu", "npu")
_without_devices: set[Path] = set()  # registered libraries, which onnxruntime does not list
_HINT = "give the library of a plugin provider, which its package knows (onnxruntime_ep_openvino.get_library_path())"


@dataclass(frozen=True)
class Plugin:
    """An execution provider that is in a library of its own.

    Attributes:
        library: its file.
        ep_name: onnxruntime's name of the provider.
        kind: of the device that it runs on: ``cpu``, ``gpu`` or ``npu``.
        version: of the library; empty where it does not say.
    """

    library: Path
    ep_name: str
    kind: str
    version: str

    def add_to(self, options: Any, threads: int) -> None:
        """Have a session run on it.

        Args:
            options: onnxruntime's ``SessionOptions`` of the session.
            threads: of the provider; 0 lets it decide.
        """
        own = [each for each in _devices(self.library) if _name(each) == self.ep_name]
        device = next(each for each in own if _kind(each) == self.kind)
        options.add_provider_for_devices([device], self.thread_options(threads))

    def thread_options(self, threads: int) -> dict[str, str]:
        """Return the provider's options for a number of threads; empty where its library has none that is known here.

        Plugins have threads of their own, whatever the session's options say.

        Args:
            threads: wanted; 0 for its own choice.
        """
        if not threads or self.kind != "cpu":
            return {}
        # OpenVINO's takes `num_of_threads` without a word, and does nothing with it (1.8.1).
        config = json.dumps({"CPU": {"INFERENCE_NUM_THREADS": threads}})
        known = {"openvino": {"load_config": config}, "ggml": {"threads": str(threads)}}
        return known.get(_short(self.ep_name), {})


def open_plugin(library: str | PathLike[str], name: str) -> Plugin:
    """Register a library, where that has not been done before, and choose one of its providers.

    Args:
        library: file of the library.
        name: of the provider, as onnxruntime has it or without ``ExecutionProvider``, in any case, maybe with the kind
            of device: ``openvino``, ``openvino:gpu``; ``auto`` takes the library's first one. Where no kind is given,
            the CPU is taken if the provider runs on it.

    Raises:
        MissingDependencyError: there is no such file, onnxruntime cannot load it, it offers no device here, or not the
            provider or the kind of device that is wanted.
    """
    # A relative path would be one from onnxruntime's own folder, and a link's target finds its libraries beside itself.
    library = Path(library).resolve()
    where, (wanted, _, kind) = f"`ep_library` {library}", name.partition(":")
    if not library.is_file():
        raise MissingDependencyError(f"{where}: no such file: {_HINT}")
    if not _devices(library) and library not in _without_devices:
        _register(library, library.stem.removeprefix("lib") if wanted == "auto" else wanted, where)
    devices = _devices(library)
    if not devices:
        _without_devices.add(library)
        raise MissingDependencyError(
            f"{where}: onnxruntime {version()} registers it, but it offers no device on this machine: it may be for "
            "processors of another make, or for another onnxruntime; see its documentation"
        )
    fitting = [each for each in devices if wanted == "auto" or _short(wanted) == _short(_name(each))]
    fitting = [each for each in fitting if not kind or _kind(each) == kind.lower()]
    if not fitting:
        known = ", ".join(dict.fromkeys(f"{_name(each)}:{_kind(each)}" for each in devices))
        raise MissingDependencyError(f"provider '{name}': {where} has {known}: give one of these as `provider`")
    own = [each for each in fitting if _name(each) == _name(fitting[0])]
    device = min(own, key=lambda each: _KINDS.index(_kind(each)))
    plugin = Plugin(library, _name(device), _kind(device), str(device.ep_metadata.get("version", "")))
    log.info("plugin provider %s %s on %s, from %s", plugin.ep_name, plugin.version, plugin.kind, library)
    return plugin


def _register(library: Path, name: str, where: str) -> None:
    register = getattr(load_onnxruntime(), "register_execution_provider_library", None)
    if register is None:
        raise MissingDependencyError(
            f"{where}: onnxruntime {version()} takes no plugin providers, wanted 1.23 or newer: "
            "pip install -U onnxruntime"
        )
    try:
        register(name, str(library))
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        said = str(error).rpartition(" : ")[2].replace("\n", " ").strip()
        raise MissingDependencyError(f"{where}: onnxruntime {version()} cannot register it: {said}: {_HINT}") from error


def _devices(library: Path) -> list[Any]:
    """Return the devices of a registered library; nothing where it is not registered."""
    devices: list[Any] = getattr(load_onnxruntime(), "get_ep_devices", list)()
    return [each for each in devices if each.ep_metadata.get("library_path") == str(library)]


def _name(device: Any) -> str:
    return str(device.ep_name)


def _kind(device: Any) -> str:
    return str(device.device.type.name).lower()


def _short(name: str) -> str:
    return name.lower().replace(_SUFFIX, "")
