"""Measured cost: the milliseconds of a layer's chains, measured at some ranks and interpolated between them.

Kernels work on blocks of channels, so time goes up in steps of a block: ranks count in blocks, rounded up. A chain's
time is close to ``a + b s + (e + f s) c`` in its blocks, s spatial and c channel (vertical, horizontal and last
convolution), less so where there are few of them: the measured grid is dense there, and bilinear interpolation is exact
for the rest.

| code     | meaning                                      | shape  |
|----------|----------------------------------------------|--------|
| spatial  | measured numbers of spatial blocks           | (a,)   |
| channel  | measured numbers of channel blocks           | (b,)   |
| times    | of chains with as many, ms                   | (a, b) |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from onnx_lowrank.cost import chain_macs
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layer import Layer
from onnx_lowrank.plan import METHODS, LayerPlan, largest_ranks
from onnx_lowrank.threads import threads_text

_BLOCKS = (1, 2, 4, 16)  # measured, and the most there are
_SCHEMA = 1


@dataclass(frozen=True)
class Machine:
    """Where milliseconds hold.

    Attributes:
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        device: what it runs on.
        threads: within an operator; 0 for onnxruntime's choice.
        onnxruntime: its version.
        block: channels its kernels work on at a time.
    """

    provider: str
    device: str
    threads: int
    onnxruntime: str
    block: int

    def __str__(self) -> str:
        return f"{self.device}, {self.provider}, {threads_text(self.threads)}, onnxruntime {self.onnxruntime}"


@dataclass
class LatencyTable:
    """Measured milliseconds.

    Attributes:
        machine: where they were measured.
        milliseconds: by key, see `chain_key`.
    """

    machine: Machine
    milliseconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text that `from_json` reads back."""
        table = {"schema": _SCHEMA, "machine": vars(self.machine), "milliseconds": self.milliseconds}
        return json.dumps(table, indent=1) + "\n"

    @staticmethod
    def from_json(text: str, where: str) -> LatencyTable:
        """Read a table.

        Args:
            text: JSON as `to_json` writes it.
            where: what to call it in error messages.

        Raises:
            BudgetError: not a table.
        """
        try:
            found = json.loads(text)
            return _checked(found["schema"], Machine(**found["machine"]), found["milliseconds"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BudgetError(
                f"{where}: not a latency table ({type(error).__name__}: {error}): "
                "let --latency-table write a new one under another name"
            ) from error


def _checked(schema: int, machine: Machine, milliseconds: dict[str, float]) -> LatencyTable:
    if schema != _SCHEMA:
        raise ValueError(f"schema {schema!r}, {_SCHEMA} is wanted")
    kinds = {"provider": str, "device": str, "threads": int, "onnxruntime": str, "block": int}
    if not all(type(getattr(machine, name)) is kind for name, kind in kinds.items()) or machine.block < 1:
        raise ValueError(f"machine {vars(machine)}")
    wrong = {key: ms for key, ms in milliseconds.items() if type(ms) not in {int, float} or not 0 < ms < inf}
    if wrong:
        raise ValueError("{} takes {!r} ms".format(*next(iter(wrong.items()))))
    return LatencyTable(machine, {key: float(ms) for key, ms in milliseconds.items()})


def chain_key(layer: Layer, plan: LayerPlan, batch: int) -> str:
    """What the time of a chain depends on, as text: the layer's shape, the method, the ranks, the batch size."""
    geometry, numbers = layer.geometry, "x".join
    parts = [
        f"{layer.op} {numbers(map(str, layer.weight.shape))}",
        f"input {numbers(map(str, layer.input_size))}",
        f"strides {geometry.strides}",
        f"dilations {geometry.dilations}",
        f"pads {geometry.pads if geometry.auto_pad == 'NOTSET' else geometry.auto_pad}",
        f"{layer.weight.dtype}",
        *([f"groups {layer.groups}"] if layer.groups > 1 else []),
        f"batch {batch}",
        plan.method,
        *(f"{kind} {rank}" for kind, rank in (("channel", plan.channel), ("spatial", plan.spatial)) if rank),
    ]
    return ", ".join(parts)


class ChainLatency:
    """Milliseconds of a layer's chains at any ranks.

    Args:
        layer: the layer.
        methods: factorizations to look at.
        block: channels that kernels work on at a time.
    """

    def __init__(self, layer: Layer, methods: Sequence[str], block: int) -> None:
        self._layer, self._block = layer, block
        # The two-way ones may take the place of a three-way chain.
        every = METHODS[1:] if "spatial-channel" in methods else methods
        self._grids = {
            method: (_nodes(layer, method, "spatial", block), _nodes(layer, method, "channel", block))
            for method in every
        }
        self._times: dict[str, NDArray[np.float64]] = {}
        self._kept = inf

    def wanted(self) -> Iterator[LayerPlan]:
        """What has to be measured, the layer itself first."""
        yield LayerPlan(self._layer.name)
        for method in self._grids:
            yield from self._plans(method)

    def learn(self, milliseconds: Callable[[LayerPlan], float]) -> None:
        """Take what was measured for all that is `wanted`."""
        self._kept = milliseconds(LayerPlan(self._layer.name))
        for method, (spatial, channel) in self._grids.items():
            times = np.array([milliseconds(plan) for plan in self._plans(method)]).reshape(len(spatial), len(channel))
            # Fewer ranks never take longer: where they did, something else went on.
            for axis in (0, 1):
                times = np.flip(np.minimum.accumulate(np.flip(times, axis), axis), axis)
            self._times[method] = _filled(spatial, channel, times)

    def __call__(self, _: Layer, plan: LayerPlan) -> float:
        """Milliseconds of the layer as planned, as a `Cost`; infinite outside of what was measured."""
        if plan.method == "kept":
            return self._kept
        times = self._times[plan.method]
        row, column = (-(-(rank or self._block) // self._block) - 1 for rank in (plan.spatial, plan.channel))
        inside = row < times.shape[0] and column < times.shape[1]
        return float(times[row, column]) if inside else inf

    def _plans(self, method: str) -> Iterator[LayerPlan]:
        largest = largest_ranks(self._layer)
        for spatial, channel in product(*self._grids[method]):
            ranks = {"spatial": spatial * self._block, "channel": channel * self._block}
            kinds = [kind for kind in ranks if kind in method.split("-")]
            kept: dict[str, Any] = {kind: min(ranks[kind], largest[kind]) for kind in kinds}
            yield LayerPlan(self._layer.name, method, **kept)


def _nodes(layer: Layer, method: str, kind: str, block: int) -> list[int]:
    """Numbers of blocks to measure of one kind of rank, up to where the chain never saves multiply-adds."""
    kinds = method.split("-")
    if kind not in kinds:
        return [1]
    largest = largest_ranks(layer)
    least: dict[str, Any] = {each: min(block, largest[each]) for each in kinds}

    def saves(blocks: int) -> bool:
        ranks = least | {kind: min(blocks * block, largest[kind])}
        return chain_macs(layer, LayerPlan(layer.name, method, **ranks)) < layer.macs

    top = next((blocks for blocks in range(-(-largest[kind] // block), 1, -1) if saves(blocks)), 1)
    return sorted({*(blocks for blocks in _BLOCKS if blocks < top), top})


def _filled(spatial: list[int], channel: list[int], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times at every number of blocks, from those at some."""
    rows, columns = np.arange(1, spatial[-1] + 1), np.arange(1, channel[-1] + 1)
    # An axis with a single point is doubled: interpolation wants two.
    if len(spatial) == 1:
        spatial, times = [spatial[0], spatial[0] + 1], np.repeat(times, 2, axis=0)
    if len(channel) == 1:
        channel, times = [channel[0], channel[0] + 1], np.repeat(times, 2, axis=1)
    found: NDArray[np.float64] = RegularGridInterpolator((spatial, channel), times)(
        np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    )
    return found
