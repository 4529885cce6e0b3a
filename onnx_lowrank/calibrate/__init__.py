"""Sample inputs -> batches -> sampled responses of every layer."""

from onnx_lowrank.calibrate.collect import collect_targets
from onnx_lowrank.calibrate.data.preprocess import Preprocessing, preset
from onnx_lowrank.calibrate.data.samples import Samples, iterate_batches, open_samples, synthetic_samples
from onnx_lowrank.calibrate.propagate import Propagation
from onnx_lowrank.calibrate.split import Split, default_batch, draw_samples, layer_positions, split_samples

__all__ = [
    "Preprocessing",
    "Propagation",
    "Samples",
    "Split",
    "collect_targets",
    "default_batch",
    "draw_samples",
    "iterate_batches",
    "layer_positions",
    "open_samples",
    "preset",
    "split_samples",
    "synthetic_samples",
]
