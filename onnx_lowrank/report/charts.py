"""Charts of a conversion: energy over rank, error per layer, multiply-adds per layer.

Layers are numbered from 1, as in the table of the page; every mark has a tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.report.report import LayerReport
from onnx_lowrank.report.svg import PLACEHOLDERS, open_chart
from onnx_lowrank.report.text import share_text, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIN_WIDTH, _MAX_WIDTH, _WIDTH_PER_LAYER, _HEIGHT = 420, 960, 13, 230  # pixels
_MARGINS = (46, 40, 8, 12)  # pixels: left, bottom, right, top
_MAX_CURVE_POINTS = 64
_NAMED_ENERGY = 0.9  # the text alternative names the rank that holds this share


def energy_chart(number: int, layer: LayerReport, energies: NDArray[np.float64]) -> str:
    """Draw the share of a layer's response energy over the channel rank, and mark the chosen rank.

    Args:
        number: of the layer, from 1.
        layer: its row of the report.
        energies: shape (d + 1,); entry r is the share, of 1, that r directions hold.

    Returns:
        An SVG element.
    """
    full_rank = len(energies) - 1
    steps = np.rint(np.linspace(0, full_rank, _MAX_CURVE_POINTS)).astype(int)
    ranks = np.unique(np.append(steps, layer.channel or 0))
    before, after = PLACEHOLDERS["before"], PLACEHOLDERS["after"]
    with open_chart(180, 104, (34, 22, 10, 8)) as chart:
        axes = chart.axes
        (curve,) = axes.plot(ranks, energies[ranks], color=before, linewidth=1.75)
        chart.mark(curve, "curve", str(number), layer.name)
        if layer.channel is not None:
            kept = float(energies[layer.channel])
            axes.plot([layer.channel] * 2, [0, kept], color=after, linewidth=1, linestyle=(0, (2, 2)))
            (point,) = axes.plot([layer.channel], [kept], "o", color=after, markersize=7, zorder=5)
            chart.mark(point, "rank", str(number), f"rank {layer.channel} keeps {share_text(kept)}")
        axes.set(xlim=(0, full_rank), ylim=(0, 1.04), xticks=[0, full_rank], yticks=[0, 0.5, 1])
        axes.set_yticklabels(["0", "50", "100"])
        axes.set_xticklabels(["0", str(full_rank)])
        axes.tick_params(labelsize=11)
        return chart.markup(f"energy{number}", _energy_text(layer, energies))


def _energy_text(layer: LayerReport, energies: NDArray[np.float64]) -> str:
    rank, full_rank = int(np.searchsorted(energies, _NAMED_ENERGY)), len(energies) - 1
    text = f"Energy kept over channel rank, {layer.name}: rank {rank} of {full_rank} keeps {_NAMED_ENERGY:.0%}"
    if layer.channel is None:
        return f"{text}; no channel rank was chosen."
    return f"{text}; the chosen rank {layer.channel} keeps {share_text(float(energies[layer.channel]))}."


def error_chart(layers: Sequence[LayerReport]) -> str | None:
    """Draw the relative error of every solved layer in graph order.

    Args:
        layers: all rows of the report.

    Returns:
        An SVG element; None if nothing was solved.
    """
    solved = [(number, layer.name, layer.errors) for number, layer in enumerate(layers, 1) if layer.errors]
    if not solved:
        return None
    with open_chart(_width(layers), _HEIGHT, _MARGINS) as chart:
        for kind, role, fill in (("linear", "before", "surface"), ("solved", "after", "after")):
            points = [(number, name, float(getattr(errors, kind))) for number, name, errors in solved]
            colour, numbers, values = PLACEHOLDERS[role], [point[0] for point in points], [point[2] for point in points]
            chart.axes.plot(numbers, values, color=colour, linewidth=1.5)
            for number, name, value in points:
                (point,) = chart.axes.plot([number], [value], "o", color=colour, markerfacecolor=PLACEHOLDERS[fill])
                chart.mark(point, kind, str(number), f"{number} {name}: {value:.4f} {kind}")
        _set_layer_axes(chart.axes, layers, max(max(errors.linear, errors.solved) for _, _, errors in solved))
        return chart.markup("errors", _error_text(solved))


def _error_text(solved: Sequence[tuple[int, str, SolveErrors]]) -> str:
    (first, _, start), (last, _, end) = solved[0], solved[-1]
    number, name, worst = max(solved, key=lambda row: row[2].solved)
    return (
        f"Relative error after the activation of {len(solved)} solved layers: {start.solved:.4f} at layer {first}, "
        f"{end.solved:.4f} at layer {last}, largest {worst.solved:.4f} at layer {number}, {name}."
    )


def macs_chart(layers: Sequence[LayerReport]) -> str:
    """Draw the multiply-adds of every layer, before and after.

    Args:
        layers: all rows of the report.

    Returns:
        An SVG element.
    """
    with open_chart(_width(layers), _HEIGHT, _MARGINS) as chart:
        for number, layer in enumerate(layers, 1):
            for kind, value, width in zip(("before", "after"), layer.macs, (0.8, 0.44), strict=True):
                (bar,) = chart.axes.bar([number], [value], width, color=PLACEHOLDERS[kind])
                chart.mark(bar, kind, str(number), f"{number} {layer.name}: {short_number(value)} {kind}")
        _set_layer_axes(chart.axes, layers, max((layer.macs[0] for layer in layers), default=0))
        chart.axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
        return chart.markup("macs", _macs_text(layers))


def _macs_text(layers: Sequence[LayerReport]) -> str:
    before, after = (sum(layer.macs[side] for layer in layers) for side in (0, 1))
    text = f"Multiply-adds of {len(layers)} layers: {short_number(before)} before, {short_number(after)} after"
    if not layers:
        return f"{text}."
    number, largest = max(enumerate(layers, 1), key=lambda row: row[1].macs[1])
    return f"{text}; the largest afterwards is layer {number}, {largest.name}, {short_number(largest.macs[1])}."


def _width(layers: Sequence[LayerReport]) -> int:
    return min(_MAX_WIDTH, max(_MIN_WIDTH, _WIDTH_PER_LAYER * len(layers)))


def _set_layer_axes(axes: Axes, layers: Sequence[LayerReport], largest: float) -> None:
    """Set the axes: from the first to the last layer, and from 0 to a little more than the largest value."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    axes.set(xlim=(0.4, len(layers) + 0.6), ylim=(0, 1.08 * largest or 1), xlabel="layer")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
