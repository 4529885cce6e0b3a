"""Times layers and their chains one by one, in the memory layout of their neighbours; remembers what it measured.

What was measured lives in a table: the user's cache, or a file that travels from the device it was measured on to the
machine that converts.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from platformdirs import user_cache_path

from onnx_lowrank.errors import BudgetError, OutputError
from onnx_lowrank.graph import Publication, add_texts, input_shape, layer_model
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.backends.protocol import Runtime
from onnx_lowrank.runtime.device import device_name, rank_block
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine, chain_key
from onnx_lowrank.runtime.library import version
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.timing import Pace, time_in_turns

log = logging.getLogger(__name__)

_TRAFFIC = 2  # bytes through the caches per byte of the network: what it computes passes too
_MOST_MEGABYTES = 32
_OUTDATED = 0.8  # of what is remembered
_PASSES = 3  # over all chains: a machine that is slow for some seconds is so in one of them
_PACE = Pace(rounds=1, repeats=2, seconds=0.01, warm_up=1)
_NETWORK_PACE = Pace(rounds=3, repeats=4, seconds=0.05)

Chain = tuple[Layer, LayerPlan]


class LayerTimer:
    """Milliseconds of layers and their chains.

    Args:
        provider: where they run.
        batch: samples per run.
        file: table to read and to add to; None for the user's cache.
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
        self.runtime, self.batch = runtime or OnnxRuntime(provider), batch
        megabytes = min(_MOST_MEGABYTES, ceil(_TRAFFIC * network_bytes / 2**20)) if provider.name == "cpu" else 0
        self._rest = 2 ** ceil(log2(megabytes)) if megabytes else 0
        self._here = Machine(provider.name, device_name(provider), provider.threads, version(), rank_block(provider))
        self._file = file or _cache_file(self._here)
        self._is_cache = file is None
        self._trusted = False
        self._table = self._read()

    @property
    def foreign(self) -> bool:
        """Whether the table comes from another machine, so that nothing can be added to it here."""
        return self._table.machine != self._here

    @property
    def machine(self) -> Machine:
        """Where the milliseconds hold."""
        return self._table.machine

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
        todo = [key for _ in range(_PASSES) for key in missing]
        for key in progress.track(todo, "latency", len(todo)):
            best[key] = min(best[key], self._time(*missing[key]))
        self._table.milliseconds.update(best)
        self._trusted = True
        self._write()

    def network(self, model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> float:
        """Milliseconds of a whole network, timed where that has not been done before.

        Args:
            model: the network.
            feeds: one batch of inputs.

        Raises:
            BudgetError: a table from another machine does not know it.
        """
        digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]
        shapes = ", ".join(f"{name} {'x'.join(map(str, values.shape))}" for name, values in feeds.items())
        key = f"network {digest}, {shapes}"
        if key not in self._table.milliseconds:
            if self.foreign:
                raise BudgetError(self._lacks(1, f"the network itself ({key})"))
            (timing,) = time_in_turns([model], [feeds], self.runtime, _NETWORK_PACE)
            self._table.milliseconds[key] = timing.best_ms
            self._write()
        return self._table.milliseconds[key]

    def _key(self, layer: Layer, plan: LayerPlan) -> str:
        key = chain_key(layer, plan, self.batch * layer.maps)
        return f"{key}, after {self._rest} MB" if self._rest else key

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
        rest = np.zeros(self._rest * 2**18, np.float32)

        def rest_of_the_network() -> None:
            np.add(rest, 1, out=rest)

        (timing,) = time_in_turns([model], [feeds], self.runtime, _PACE, rest_of_the_network)
        return timing.best_ms

    def _read(self) -> LatencyTable:
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return LatencyTable(self._here)
        except (OSError, UnicodeDecodeError) as error:
            if self._is_cache:
                return LatencyTable(self._here)
            raise BudgetError(f"`latency_table` {self._file}: cannot be read ({error}): check the path") from error
        if not self._is_cache:
            return LatencyTable.from_json(text, f"`latency_table` {self._file}")
        with contextlib.suppress(BudgetError):  # a broken cache is none
            return LatencyTable.from_json(text, "cache")
        return LatencyTable(self._here)

    def _write(self) -> None:
        try:
            if self._is_cache:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            with Publication(is_result=not self._is_cache) as publication:
                add_texts({self._file: self._table.to_json()}, publication)
        except (OSError, OutputError) as error:
            if not self._is_cache:
                raise
            log.debug("latencies are not remembered: %s", error)


def _cache_file(machine: Machine) -> Path:
    name = hashlib.sha256(str(machine).encode()).hexdigest()[:16]
    return user_cache_path("onnx-lowrank") / f"latency-{name}.json"
