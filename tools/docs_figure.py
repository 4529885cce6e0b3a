"""Draw the figure of the benchmarks from the table above it.

Usage::

    python tools/docs_figure.py    # writes tools/docs/cifar10.svg

Needs the extra ``report`` (matplotlib).
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

DOCS = Path(__file__).parent / "docs"
_TABLE = re.compile(r"CIFAR-10, VGG-16 of half width.*?\n\n(\|.*?)\n\n", re.DOTALL)
_INK, _OURS, _OTHERS = "#7a8190", "#2f6fdf", ("#7a8190", "#a8794a", "#5d8f6b", "#9b6bb0")
_MAX_POINTS_LOST = 10.0  # methods that lose more are left out


def rows() -> dict[str, list[tuple[float, float]]]:
    """Return pairs of speedup and points lost by method, without methods that leave the figure."""
    table = _TABLE.search((DOCS / "benchmarks.md").read_text(encoding="utf-8"))
    assert table is not None
    head, _, *lines = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
    speedups = [float(cell.rstrip("x")) for cell in head[1:]]
    points_of = {
        name: [(speedup, float(cell)) for speedup, cell in zip(speedups, cells, strict=True) if cell]
        for name, *cells in lines
    }
    return {name: points for name, points in points_of.items() if all(lost <= _MAX_POINTS_LOST for _, lost in points)}


def main() -> None:
    """Write the figure."""
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "onnx-lowrank", "font.size": 11, "text.color": _INK}
    ):
        figure = Figure(figsize=(8.4, 3.0))
        axes = figure.add_axes((0.08, 0.17, 0.52, 0.76))
        colours = iter(_OTHERS)
        for name, points in rows().items():
            ours = name.startswith("onnx-lowrank")
            colour = _OURS if ours else next(colours)
            label = re.sub(r", (ranks searched|as we rebuilt it)", "", name)
            speedups, lost = zip(*points, strict=True)
            axes.plot(speedups, lost, "o-", color=colour, linewidth=2.5 if ours else 1.5, label=label)
        axes.set_xlabel("times fewer multiply-adds", color=_INK)
        axes.set_ylabel("points of top-1 lost", color=_INK)
        axes.set_xticks([2, 3, 4], ["2x", "3x", "4x"])
        axes.set_ylim(0, _MAX_POINTS_LOST)
        axes.tick_params(colors=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.0), labelcolor=_INK)
        figure.savefig(DOCS / "cifar10.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
