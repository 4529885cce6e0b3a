"""Times layers and their chains one by one, in the memory layout of their neighbours; remembers what it measured.

What was measured lives in a table: the user's cache, or a file that travels from the device it was measured on to the
machine that converts.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from copy import copy
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from platformdirs import user_cache_path

from onnx_lowrank.errors import BudgetError, MissingDependencyError
from onnx_lowrank.graph import Part, input_shape, layer_model
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.backends.protocol import Runtime
from onnx_lowrank.runtime.backends.registry import open_runtime
from onnx_lowrank.runtime.device import device_name, rank_block
from onnx_lowrank.runtime.latency_table import Machine, chain_key, network_key
from onnx_lowrank.runtime.layer_parts import time_parts
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.rank_multiples import runs_on_gpu
from onnx_lowrank.runtime.table_file import read_table, write_table
from onnx_lowrank.runtime.timing import Pace, time_in_turns

log = logging.getLogger(__name__)

_TRAFFIC = 2  # bytes through the caches per byte of the network: what it computes passes too
_MOST_MEGABYTES = 32
_OUTDATED = 0.8  # of what is remembered
_PASSES = 3  # over all chains: a machine that is slow for some seconds is so in one of them
_RUNS = 5  # of every chain that is part of a network, in as many passes
_PACE = Pace(rounds=1, repeats=2, seconds=0.01, warm_up=1)
_NETWORK_PACE = Pace(rounds=3, repeats=4, seconds=0.05)

# Its converter takes seconds, and its networks run as a whole: hours for all chains. It computes convolutions as
# onnxruntime does, without Winograd's algorithm, and takes about as long.
_TIMED_IN_ONNXRUNTIME = {"litert"}

Chain = tuple[Layer, LayerPlan]


class LayerTimer:
    """Milliseconds of layers and their chains.

    Args:
        provider: where they run.
        batch: samples per run.
        file: table to read and to add to; None for the user's cache of the runtime.
        network_bytes: size of the network the layers are in. Between two runs of a layer the rest of it goes through
            the processor's caches, so that weights are read from memory anew; something as large does so here.
        runtime: what runs them; None for onnxruntime.

    Attributes:
        runtime: what runs them.
        batch: samples per run.

    Raises:
        BudgetError: the file is no table.
    """

    def __init__(
        self,
        provider: Provider,
        batch: int,
        file: Path | None = None,
        network_bytes: int = 0,
        runtime: Runtime | None = None,
    ) -> None:
        self.runtime, self.batch, self._provider = runtime or OnnxRuntime(provider), batch, provider
        self._layer_runtime = OnnxRuntime(provider) if self.runtime.name in _TIMED_IN_ONNXRUNTIME else self.runtime
        megabytes = min(_MOST_MEGABYTES, ceil(_TRAFFIC * network_bytes / 2**20)) if provider.name == "cpu" else 0
        self._rest = 2 ** ceil(log2(megabytes)) if megabytes else 0
        self._here = machine_of(self.runtime, provider)
        self._file = file or _cache_file(self._here)
        self._is_cache = file is None
        self._trusted = False
        self._table = read_table(self._file, self._here, is_cache=self._is_cache)

    @property
    def foreign(self) -> bool:
        """Whether the table comes from another machine, so that nothing can be added to it here."""
        return self._table.machine != self._here

    @property
    def on_gpu(self) -> bool:
        """Whether the milliseconds are those of a GPU; of a table from elsewhere its name of the provider tells."""
        provider = self.machine.provider if self.foreign else self._provider.kernels
        return runs_on_gpu(self.machine.runtime, provider)

    @property
    def machine(self) -> Machine:
        """Where the milliseconds hold."""
        return self._table.machine

    def at_batch(self, batch: int) -> LayerTimer:
        """Return what times the same with other batches, and remembers it in the same table."""
        other = copy(self)
        other.batch = batch
        return other

    def milliseconds(self, layer: Layer, plan: LayerPlan) -> float:
        """Time of a layer as planned, which has been measured; see `measure`."""
        return self._table.milliseconds[self._key(layer, plan)]

    def known(self, layer: Layer, plan: LayerPlan) -> bool:
        """Whether a layer as planned has been measured."""
        return self._key(layer, plan) in self._table.milliseconds

    def measure(self, chains: Iterable[Chain], progress: Progress) -> None:
        """Time what has not been timed before; the best of several passes counts.

        Args:
            chains: layers and how they are planned; layers alike in shape are timed once.
            progress: watches.

        Raises:
            BudgetError: something is missing in a table from another machine.
        """
        wanted = {self._key(layer, plan): (layer, plan) for layer, plan in chains}
        self._distrust(wanted)
        missing = {key: chain for key, chain in wanted.items() if key not in self._table.milliseconds}
        if not missing:
            return
        if self.foreign:
            key, (layer, _) = next(iter(missing.items()))
            raise BudgetError(self._lacks(len(missing), f"{layer.op} '{layer.name}' ({key})"))
        best = dict.fromkeys(missing, float("inf"))
        total = (_RUNS if self._layer_runtime.runs_parts else _PASSES) * len(missing)
        with closing(self._timed(missing)) as timed:  # or an interruption would leave the files of converters behind
            for key, milliseconds in progress.track(timed, "latency", total):
                best[key] = min(best[key], milliseconds)
        self._table.milliseconds.update(best)
        self._trusted = True
        write_table(self._table, self._file, is_cache=self._is_cache)

    def network(
        self, model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], runtime: Runtime | None = None
    ) -> float:
        """Milliseconds of a whole network where single layers are timed, so that both are on one scale.

        It is timed where that has not been done before.

        Args:
            model: the network.
            feeds: one batch of inputs.
            runtime: where networks run, if it has the network converted already; None for the timer's own.

        Raises:
            BudgetError: a table from another machine does not know it.
        """
        key = network_key(model, {name: values.shape for name, values in feeds.items()})
        in_onnxruntime = f"{key}, in onnxruntime"
        if self.foreign:  # its layers were timed as here, or by the runtime's own tool
            key = in_onnxruntime if in_onnxruntime in self._table.milliseconds else key
        elif self._layer_runtime is not self.runtime:
            key, runtime = in_onnxruntime, self._layer_runtime
        if key not in self._table.milliseconds:
            if self.foreign:
                raise BudgetError(self._lacks(1, f"the network itself ({key})"))
            (timing,) = time_in_turns([model], [feeds], runtime or self.runtime, _NETWORK_PACE)
            self._table.milliseconds[key] = timing.best_ms
            write_table(self._table, self._file, is_cache=self._is_cache)
        return self._table.milliseconds[key]

    def _key(self, layer: Layer, plan: LayerPlan) -> str:
        key = chain_key(layer, plan, self.batch * layer.maps)
        among_others = f"{key}, after {self._rest} MB" if self._rest else key
        # The tools of runtimes, which tables of devices are made with, leave weights in the caches.
        known = self._table.milliseconds
        return key if self.foreign and among_others not in known and key in known else among_others

    def _timed(self, chains: Mapping[str, Chain]) -> Generator[tuple[str, float]]:
        """Yield the keys of chains and their milliseconds, all chains once in every pass."""
        if not self._layer_runtime.runs_parts:
            for key in [key for _ in range(_PASSES) for key in chains]:
                yield key, self._time(*chains[key])
            return
        parts = [Part(layer, plan, self.batch * layer.maps) for layer, plan in chains.values()]
        keys = list(chains)
        rest, between = self._rest * 2**20, self._rest_of_the_network()
        with closing(time_parts(parts, self._layer_runtime, _RUNS, rest, between)) as timed:
            for number, milliseconds in timed:
                yield keys[number], milliseconds

    def _distrust(self, wanted: Mapping[str, Chain]) -> None:
        """Forget a cache that was filled while other work slowed the machine down: one look at its largest entry."""
        remembered = [key for key in wanted if key in self._table.milliseconds]
        if not self._is_cache or self._trusted or not remembered:
            return
        self._trusted = True
        largest = max(remembered, key=self._table.milliseconds.__getitem__)
        now, then = self._time(*wanted[largest]), self._table.milliseconds[largest]
        if now < _OUTDATED * then:
            log.info("the latencies remembered are too long (%.3g ms is now %.3g): measuring again", then, now)
            self._table.milliseconds.clear()

    def _lacks(self, count: int, first: str) -> str:
        return (
            f"`latency_table` {self._file}: measured on {self.machine}, lacks {count} entries, {first} first; here is "
            f"{self._here}: complete it there, with the same command and `dry_run`"
        )

    def _time(self, layer: Layer, plan: LayerPlan) -> float:
        maps = self.batch * layer.maps
        factors = random_factors(layer, plan)
        model, shape = layer_model(layer, factors, maps), input_shape(layer, factors, maps)
        feeds = {"input": np.random.default_rng(0).random(shape).astype(layer.weight.dtype)}
        (timing,) = time_in_turns([model], [feeds], self._layer_runtime, _PACE, self._rest_of_the_network())
        return timing.best_ms

    def _rest_of_the_network(self) -> Callable[[], None]:
        """Return what drives weights out of the caches, as the rest of the network does between two runs."""
        rest = np.zeros(self._rest * 2**18, np.float32)

        def pass_through_the_caches() -> None:
            np.add(rest, 1, out=rest)

        return pass_through_the_caches


def open_layer_timer(name: str, provider: Provider, batch: int, file: Path | None, network_bytes: int) -> LayerTimer:
    """Open what times layers in a runtime; it need not be installed where a table from elsewhere has the times.

    Args:
        name: of the runtime, as in `open_runtime`.
        provider: where onnxruntime runs; of other runtimes, the number of threads.
        batch: samples per run.
        file: see `LayerTimer`.
        network_bytes: see `LayerTimer`.

    Raises:
        MissingDependencyError: a package that the runtime needs is not installed.
        BudgetError: the file is no table, or one of another runtime.
    """
    has_table = file is not None and file.is_file()
    try:
        runtime = open_runtime(name, provider)
    except MissingDependencyError:
        if not has_table:
            raise
        runtime = OnnxRuntime(provider)
    timer = LayerTimer(provider, batch, file, network_bytes, runtime)
    wanted, measured = name.partition(":")[0], timer.machine.runtime
    if has_table and measured != wanted:
        raise BudgetError(
            f"`latency_table` {file}: measured on {timer.machine}, `runtime` is {wanted}: use "
            f"`runtime={measured!r}`, or another table"
        )
    return timer


def machine_of(runtime: Runtime, provider: Provider) -> Machine:
    """Return what this machine and a runtime are in a table of milliseconds."""
    block = rank_block(provider) if runtime.name == "onnxruntime" else rank_block(provider, runtime.name)
    return Machine(
        runtime.name, runtime.version, runtime.precision, provider.name, device_name(provider), runtime.threads, block
    )


def _cache_file(machine: Machine) -> Path:
    name = hashlib.sha256(str(machine).encode()).hexdigest()[:16]
    return user_cache_path("onnx-lowrank") / f"latency-{name}.json"
