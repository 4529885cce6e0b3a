"""Layer + Responses + ranks -> Factors."""

from onnx_lowrank.solve.layer import solve_layer

__all__ = ["solve_layer"]
