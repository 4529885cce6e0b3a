"""Solve layers: a layer, its sampled rows and its ranks give the factors of a chain."""

from onnx_lowrank.solve.layer import solve_layer

__all__ = ["solve_layer"]
