"""A table of measured milliseconds, saved as JSON, and the machine that it was measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

import onnx

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.linalg.threads import threads_text
from onnx_lowrank.runtime.rank_multiples import wide_multiple

_SCHEMA = 2


@dataclass(frozen=True)
class Machine:
    """The machine that milliseconds were measured on, and what ran the networks there.

    Attributes:
        runtime: ``onnxruntime``, ``openvino``, ``ncnn``, ...
        version: of the runtime.
        precision: what products are computed in: ``f32``, ``bf16``, ``f16`` or ``tf32``.
        provider: ``cpu``, ``cuda`` or ``tensorrt``; where another runtime than onnxruntime runs.
        device: name of the processor, see `device_name`.
        threads: within an operator; 0 for the runtime's choice.
        block: channels that its kernels process at a time.
    """

    runtime: str
    version: str
    precision: str
    provider: str
    device: str
    threads: int
    block: int

    @property
    def wide_multiple(self) -> int:
        """What ranks of wide layers are better multiples of than of the block."""
        return wide_multiple(self.runtime, self.version, self.provider, self.threads, self.block)

    def __str__(self) -> str:
        runs = f"{self.runtime} {self.version}, {self.precision}"
        return f"{self.device}, {self.provider}, {threads_text(self.threads)}, {runs}"


@dataclass
class LatencyTable:
    """Measured milliseconds.

    Attributes:
        machine: where they were measured.
        milliseconds: of one run, by key, see `chain_key`.
    """

    machine: Machine
    milliseconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return text that `from_json` reads back."""
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
            table = json.loads(text)
            return _checked(_machine(table["schema"], table["machine"]), table["milliseconds"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BudgetError(
                f"{where}: not a latency table ({type(error).__name__}: {error}): "
                "let `latency_table` write a new one under another name"
            ) from error


def _machine(schema: int, entry: dict[str, Any]) -> Machine:
    """Return the machine of a table; before schema 2 all of them were onnxruntime's."""
    if schema == 1:
        others = {key: value for key, value in entry.items() if key != "onnxruntime"}
        precision = "f32" if entry["provider"] == "cpu" else "tf32"
        return Machine(runtime="onnxruntime", version=entry["onnxruntime"], precision=precision, **others)
    if schema != _SCHEMA:
        raise ValueError(f"schema {schema!r}, {_SCHEMA} is wanted")
    return Machine(**entry)


def _checked(machine: Machine, milliseconds: dict[str, float]) -> LatencyTable:
    kinds = {each.name: int if each.type == "int" else str for each in fields(Machine)}
    if not all(type(getattr(machine, name)) is kind for name, kind in kinds.items()) or machine.block < 1:
        raise ValueError(f"machine {vars(machine)}")
    wrong = {key: ms for key, ms in milliseconds.items() if type(ms) not in {int, float} or not 0 < ms < inf}
    if wrong:
        raise ValueError("{} takes {!r} ms".format(*next(iter(wrong.items()))))
    return LatencyTable(machine, {key: float(ms) for key, ms in milliseconds.items()})


def _ranks(plan: LayerPlan) -> tuple[tuple[str, int | None], ...]:
    return ("channel", plan.channel), ("spatial", plan.spatial), ("input", plan.input), ("width", plan.width)


def network_key(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return what a whole network is called: a digest of it, and the shapes of its inputs by name."""
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]
    return f"network {digest}, " + ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


def chain_key(layer: Layer, plan: LayerPlan, batch: int) -> str:
    """Return all that the time of a chain depends on, as text: the layer's shape, the method, ranks and batch size."""
    geometry, numbers = layer.geometry, "x".join
    parts = [
        f"{layer.op} {numbers(map(str, layer.weight.shape))}",
        f"input {numbers(map(str, layer.input_size))}",
        f"strides {geometry.strides}",
        f"dilations {geometry.dilations}",
        f"pads {geometry.pads if geometry.auto_pad == 'NOTSET' else geometry.auto_pad}",
        *([f"output padding {geometry.output_padding}"] if geometry.transposed else []),
        f"{layer.weight.dtype}",
        *([f"groups {layer.groups}"] if layer.groups > 1 else []),
        f"batch {batch}",
        plan.method,
        *(f"{kind} {rank}" for kind, rank in _ranks(plan) if rank),
    ]
    return ", ".join(parts)
