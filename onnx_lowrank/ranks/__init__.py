"""Energies and costs of every layer -> the rank plan."""

from onnx_lowrank.ranks.options import layer_options
from onnx_lowrank.ranks.select import Option, select
from onnx_lowrank.ranks.spectrum import energy_curve

__all__ = ["Option", "energy_curve", "layer_options", "select"]
