"""The charts of the page: energy over rank, errors through the network, multiply-adds per layer.

Layers go by their number in the table, from 1; what a mark stands for is said where the mouse rests on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.report.report import LayerReport
from onnx_lowrank.report.svg import ROLES, drawing, markup, tag
from onnx_lowrank.report.text import share_text, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _WIDEST, _PER_LAYER, _HEIGHT = 420, 960, 13, 230  # pixels
_MARGINS = (46, 40, 8, 12)
_POINTS = 64  # of a curve
_MOST = 0.9  # energy whose rank the text names


def energy_chart(number: int, layer: LayerReport, energies: NDArray[np.float64]) -> str:
    """Share of the energy of a layer's responses over the channel rank, the chosen one marked.

    Args:
        number: of the layer.
        layer: its row of the report.
        energies: shape (d + 1,), entry r the share that r directions hold.
    """
    most = len(energies) - 1
    ranks = np.unique(np.append(np.rint(np.linspace(0, most, _POINTS)).astype(int), layer.channel or 0))
    with drawing(180, 104, (34, 22, 10, 8)) as (figure, axes):
        (curve,) = axes.plot(ranks, energies[ranks], color=ROLES["before"], linewidth=1.75)
        tag(curve, "curve", str(number), layer.name)
        if layer.channel is not None:
            kept = float(energies[layer.channel])
            axes.plot([layer.channel] * 2, [0, kept], color=ROLES["after"], linewidth=1, linestyle=(0, (2, 2)))
            (point,) = axes.plot([layer.channel], [kept], "o", color=ROLES["after"], markersize=7, zorder=5)
            tag(point, "rank", str(number), f"rank {layer.channel} keeps {share_text(kept)}")
        axes.set(xlim=(0, most), ylim=(0, 1.04), xticks=[0, most], yticks=[0, 0.5, 1])
        axes.set_yticklabels(["0", "50", "100"])
        axes.set_xticklabels(["0", str(most)])
        axes.tick_params(labelsize=11)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        return markup(figure, f"energy{number}", _energy_text(layer, energies))


def _energy_text(layer: LayerReport, energies: NDArray[np.float64]) -> str:
    enough = int(np.searchsorted(energies, _MOST))
    text = f"Energy kept over channel rank, {layer.name}: rank {enough} of {len(energies) - 1} keeps {_MOST:.0%}"
    if layer.channel is None:
        return f"{text}; no channel rank was chosen."
    return f"{text}; the chosen rank {layer.channel} keeps {share_text(float(energies[layer.channel]))}."


def error_chart(layers: Sequence[LayerReport]) -> str | None:
    """Relative error of every solved layer in the order of the graph; None where nothing was solved.

    Args:
        layers: all rows of the report.
    """
    solved = [(number, layer.name, layer.errors) for number, layer in enumerate(layers, 1) if layer.errors]
    if not solved:
        return None
    with drawing(_width(layers), _HEIGHT, _MARGINS) as (figure, axes):
        for kind, role, inside in (("linear", "before", "surface"), ("solved", "after", "after")):
            points = [(number, name, float(getattr(errors, kind))) for number, name, errors in solved]
            axes.plot([point[0] for point in points], [point[2] for point in points], color=ROLES[role], linewidth=1.5)
            for number, name, value in points:
                (mark,) = axes.plot([number], [value], "o", color=ROLES[role], markerfacecolor=ROLES[inside])
                tag(mark, kind, str(number), f"{number} {name}: {value:.4f} {kind}")
        _over_layers(axes, layers, max(max(errors.linear, errors.solved) for _, _, errors in solved))
        return markup(figure, "errors", _error_text(solved))


def _error_text(solved: Sequence[tuple[int, str, SolveErrors]]) -> str:
    (first, _, start), (last, _, end) = solved[0], solved[-1]
    number, name, worst = max(solved, key=lambda each: each[2].solved)
    return (
        f"Relative error after the activation of {len(solved)} solved layers: {start.solved:.4f} at layer {first}, "
        f"{end.solved:.4f} at layer {last}, largest {worst.solved:.4f} at layer {number}, {name}."
    )


def macs_chart(layers: Sequence[LayerReport]) -> str:
    """Multiply-adds of every layer, before and after.

    Args:
        layers: all rows of the report.
    """
    with drawing(_width(layers), _HEIGHT, _MARGINS) as (figure, axes):
        for number, layer in enumerate(layers, 1):
            for kind, value, width in zip(("before", "after"), layer.macs, (0.8, 0.44), strict=True):
                (bar,) = axes.bar([number], [value], width, color=ROLES[kind])
                tag(bar, kind, str(number), f"{number} {layer.name}: {short_number(value)} {kind}")
        _over_layers(axes, layers, max((layer.macs[0] for layer in layers), default=0))
        axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
        return markup(figure, "macs", _macs_text(layers))


def _macs_text(layers: Sequence[LayerReport]) -> str:
    before, after = (sum(layer.macs[place] for layer in layers) for place in (0, 1))
    text = f"Multiply-adds of {len(layers)} layers: {short_number(before)} before, {short_number(after)} after"
    if not layers:
        return f"{text}."
    number, largest = max(enumerate(layers, 1), key=lambda each: each[1].macs[1])
    return f"{text}; most of them afterwards in layer {number}, {largest.name}, {short_number(largest.macs[1])}."


def _width(layers: Sequence[LayerReport]) -> int:
    return min(_WIDEST, max(_WIDTH, _PER_LAYER * len(layers)))


def _over_layers(axes: Axes, layers: Sequence[LayerReport], most: float) -> None:
    """Axes from the first to the last layer, and from 0 to a little more than the most there is."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    axes.set(xlim=(0.4, len(layers) + 0.6), ylim=(0, 1.08 * most or 1), xlabel="layer")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
