"""The factorization and the ranks of every layer, read from JSON and written to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

from onnx_lowrank.errors import RankError
from onnx_lowrank.layers.layer import Layer

Factorization = Literal["channel", "spatial", "spatial-channel", "input", "tucker"]
FACTORIZATIONS = get_args(Factorization)
METHODS = ("kept", *FACTORIZATIONS)
PLANNED_METHODS = (*METHODS, "width")
_RANKS: Mapping[str, tuple[str, ...]] = {
    "kept": (),
    "channel": ("channel",),
    "spatial": ("spatial",),
    "spatial-channel": ("channel", "spatial"),
    "input": ("input",),
    "tucker": ("input", "channel"),
    "width": (),
}
# The two-way chains that three-way ones consist of, and are where a rank is full.
TWO_WAY: Mapping[str, tuple[str, ...]] = {"spatial-channel": ("channel", "spatial"), "tucker": ("input", "channel")}


@dataclass(frozen=True)
class LayerPlan:
    """Method and ranks of one layer.

    Attributes:
        name: the layer's name.
        method: ``kept``, ``channel``, ``spatial``, ``spatial-channel``, ``input``, ``tucker`` or ``width``.
        channel: rank d' in front of the last 1 x 1 convolution, of each group; None where the method has none.
        spatial: rank d'' between the kh x 1 and the 1 x kw convolution, of each group; None where the method has none.
        energy: share of the response's energy these ranks keep, 0 to 1.
        reason: why the layer is kept, where it had to be.
        width: channels of its input that are left, the others are not made any more; None where it does not choose
            them itself.
        resolved: whether the layer keeps its shape but has its weights solved anew, for the inputs that it gets now.
        input: rank between a first 1 x 1 and the kh x kw convolution, of each group; None where the method has none.
    """

    name: str
    method: str = "kept"
    channel: int | None = None
    spatial: int | None = None
    energy: float = 1.0
    reason: str | None = None
    width: int | None = None
    resolved: bool = False
    input: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the layer in `RankPlan.to_json`."""
        ranks = {key: getattr(self, key) for key in _RANKS[self.method]}
        entry = {"name": self.name, "method": self.method, "ranks": ranks}
        return entry if self.width is None else {**entry, "width": self.width}


@dataclass(frozen=True)
class RankPlan:
    """The plan of all layers, in the order they are converted."""

    layers: tuple[LayerPlan, ...]

    def __iter__(self) -> Iterator[LayerPlan]:
        """Iterate over the layers' plans, in order."""
        return iter(self.layers)

    def to_json(self) -> str:
        """Return text that `from_json` reads back."""
        return json.dumps({"schema": 1, "layers": [layer.to_dict() for layer in self.layers]}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, where: str = "plan") -> RankPlan:
        """Read a plan.

        Args:
            text: JSON as `to_json` writes it; layers that it leaves out are kept.
            where: name of the plan in error messages.

        Raises:
            RankError: not JSON, or a layer's entry is malformed.
        """
        try:
            entries = json.loads(text)["layers"]
            return RankPlan(tuple(_layer_plan(entry) for entry in entries))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RankError(
                f"{where}: not a rank plan ({type(error).__name__}: {error}), wanted "
                '{"layers": [{"name": ..., "method": ..., "ranks": {...}}]}: write one with `RankPlan.to_json`'
            ) from error

    def matched(self, layers: Sequence[Layer]) -> RankPlan:
        """Return the plan with one entry for every layer, in their order, checked against their shapes.

        Args:
            layers: all layers that can be factorized, in the order they are converted.

        Raises:
            RankError: an unknown layer, an unknown method, or a rank out of range.
        """
        entries = {entry.name: entry for entry in self.layers}
        names = {layer.name for layer in layers}
        unknown = [name for name in entries if name not in names]
        if unknown:
            raise RankError(
                f"plan: no layer '{unknown[0]}' that can be factorized, the model has "
                f"{', '.join(sorted(names)[:4])}, ...: list them with `inspect`"
            )
        if len(entries) != len(self.layers):
            raise RankError("plan: a layer is named twice: leave one entry per layer")
        matched = [entries.get(layer.name, LayerPlan(layer.name)) for layer in layers]
        for layer, entry in zip(layers, matched, strict=True):
            _check(layer, entry)
        return RankPlan(tuple(_or_kept(layer, entry) for layer, entry in zip(layers, matched, strict=True)))

    def factorized(self, layers: Sequence[Layer]) -> list[tuple[Layer, LayerPlan]]:
        """Return every layer that is not kept, paired with its plan.

        Args:
            layers: the layers this plan is for, in its order.

        Returns:
            Pairs of a layer and its plan, in the order they are converted.

        Raises:
            ValueError: the layers differ from those of the plan in number or order.
        """
        return [(layer, entry) for layer, entry in self._paired(layers) if entry.method != "kept"]

    def solved(self, layers: Sequence[Layer]) -> list[tuple[Layer, LayerPlan]]:
        """Return every layer that gets other weights, paired with its plan: those that are not kept, or solved anew.

        Args:
            layers: the layers this plan is for, in its order.

        Returns:
            Pairs of a layer and its plan, in the order they are converted.

        Raises:
            ValueError: the layers differ from those of the plan in number or order.
        """
        return [(layer, entry) for layer, entry in self._paired(layers) if entry.method != "kept" or entry.resolved]

    def _paired(self, layers: Sequence[Layer]) -> Iterator[tuple[Layer, LayerPlan]]:
        planned, names = [entry.name for entry in self.layers], [layer.name for layer in layers]
        if planned != names:
            raise ValueError(f"the plan is for the layers {planned} in this order, got {names}")
        return zip(layers, self, strict=True)


def rank_kinds(method: str) -> tuple[str, ...]:
    """Return the kinds of ranks that a method has: ``channel``, ``spatial``, ``input``; none where it is ``kept``.

    >>> rank_kinds("tucker")
    ('input', 'channel')
    """
    return _RANKS[method]


def largest_ranks(layer: Layer) -> Mapping[str, int]:
    """Return the highest useful rank per kind, of one group.

    They are ``channel`` d, ``spatial`` min(c * kh, d * kw), and ``input`` min(c, d * kh * kw). ``width``, the channels
    that the layer reads, is there only where some of them can be left out.
    """
    channels, filters, kernel = layer.channels // layer.groups, layer.filters // layer.groups, layer.kernel
    ranks = {
        "channel": filters,
        "spatial": min(channels * kernel[0], filters * kernel[-1]),
        "input": min(channels, filters * prod(kernel)),
    }
    return {**ranks, "width": layer.channels} if layer.narrowable else ranks


def _layer_plan(entry: Mapping[str, Any]) -> LayerPlan:
    method = entry["method"]
    if not isinstance(entry["name"], str):
        raise TypeError(f"name {entry['name']!r} is no text")
    if method not in PLANNED_METHODS:
        raise ValueError(f"method {method!r} of '{entry['name']}' is not one of {', '.join(PLANNED_METHODS)}")
    ranks = entry.get("ranks", {})
    width = {"width": entry["width"]} if method == "width" else {}
    return LayerPlan(entry["name"], method, **{key: ranks[key] for key in _RANKS[method]}, **width)


def _or_kept(layer: Layer, entry: LayerPlan) -> LayerPlan:
    """Return the plan of a layer, or that to keep it where it leaves no channel out."""
    whole = entry.width == layer.channels
    return LayerPlan(entry.name, reason="all of its channels stay") if whole else entry


def _check(layer: Layer, entry: LayerPlan) -> None:
    if "spatial" in _RANKS[entry.method] and len(layer.kernel) != 2:
        raise RankError(
            f"{layer.op} '{layer.name}': a {len(layer.kernel)}-D convolution has no spatial decomposition, got method "
            f"'{entry.method}': use 'channel' or 'kept' in the plan"
        )
    if "input" in _RANKS[entry.method] and layer.single_point:
        raise RankError(
            f"{layer.op} '{layer.name}': a kernel of one point has no other convolution between two of 1 x 1, got "
            f"method '{entry.method}': use 'channel' or 'kept' in the plan"
        )
    if entry.method == "width" and not layer.narrowable:
        raise RankError(
            f"{layer.op} '{layer.name}': the channels that it reads cannot be left out ({_why_whole(layer)}), got "
            "method 'width': use another method or 'kept' in the plan"
        )
    for kind in (*_RANKS[entry.method], *(["width"] if entry.method == "width" else [])):
        rank, largest = getattr(entry, kind), largest_ranks(layer)[kind]
        smallest = layer.min_width if kind == "width" else 1
        if isinstance(rank, bool) or not isinstance(rank, int) or not smallest <= rank <= largest:
            raise RankError(
                f"{layer.op} '{layer.name}': {kind} {'must' if kind == 'width' else 'rank must'} be {smallest}.."
                f"{largest} ({_filters(layer)}), got {rank}: change it in the plan"
            )


def _why_whole(layer: Layer) -> str:
    return layer.reads if isinstance(layer.reads, str) else "each of their groups has one"


def _filters(layer: Layer) -> str:
    return f"{layer.filters} filters" + (f" in {layer.groups} groups" if layer.groups > 1 else "")
