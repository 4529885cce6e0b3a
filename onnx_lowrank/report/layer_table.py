"""The table of layers on the page of a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnx_lowrank.report.report import Report
from onnx_lowrank.report.table import Cell, Column, counts, numbers, short_counts, without_empty, words


def layer_columns(report: Report, kernels: Mapping[str, tuple[int, ...]]) -> list[Column]:
    """Return the columns of the table, one cell per layer in graph order.

    Columns of what was not measured, solved or kept are left out.

    Args:
        report: of the conversion.
        kernels: shapes of the weights by layer name, where they are known.
    """
    layers = report.layers
    milliseconds = [layer.milliseconds or (None, None) for layer in layers]
    errors = [(layer.errors.linear, layer.errors.solved) if layer.errors else (None, None) for layer in layers]
    return [
        counts("#", range(1, len(layers) + 1)),
        words("layer", [layer.name for layer in layers]),
        words("op", [layer.op for layer in layers]),
        Column("weight", [_shape_cell(kernels.get(layer.name)) for layer in layers]),
        words("method", [layer.method for layer in layers]),
        counts("spatial rank", [layer.spatial for layer in layers]),
        *without_empty([counts("input rank", [layer.input for layer in layers])]),
        counts("channel rank", [layer.channel for layer in layers]),
        *without_empty([counts("width", [layer.width for layer in layers])]),
        short_counts("MACs before", [layer.macs[0] for layer in layers]),
        short_counts("MACs after", [layer.macs[1] for layer in layers]),
        *without_empty(
            [
                numbers("ms before", [before for before, _ in milliseconds], ".3g"),
                numbers("ms after", [after for _, after in milliseconds], ".3g"),
            ]
        ),
        numbers("energy", [None if layer.method == "kept" else layer.energy for layer in layers], ".4f"),
        *without_empty(
            [
                numbers("error, linear", [linear for linear, _ in errors], ".4f"),
                numbers("error, solved", [solved for _, solved in errors], ".4f"),
                words("reason", [layer.reason or "" for layer in layers]),
            ]
        ),
    ]


def _shape_cell(shape: tuple[int, ...] | None) -> Cell:
    """Return a weight's shape, sorted by its number of elements."""
    return Cell() if shape is None else Cell("×".join(map(str, shape)), str(prod(shape)))
