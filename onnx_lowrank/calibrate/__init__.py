"""Calibration: from sample inputs to what the original and the converted network deliver at each layer.

| file               | what it does                                                                             |
|--------------------|------------------------------------------------------------------------------------------|
| `data`             | reads sample inputs: archives, arrays, images; synthesizes images where there are none   |
| `split`            | chooses samples for calibration, for a search and for verification; the batch size       |
| `positions`        | draws the positions of every image at which a layer is sampled                           |
| `taps`             | builds the graph nodes that gather rows at these positions                               |
| `collect`          | runs the original network once: target responses of all layers                           |
| `propagate`        | runs the converted network segment by segment: input patches of one layer after another  |
| `activation_cache` | keeps tensors between segments: on the device, in memory, on the disk                    |
| `patch_buffer`     | holds the input patches of one layer: in memory or on the disk                           |
| `calibration`      | puts all of this together for one conversion                                             |

Other rooms import the names below from here.
"""

from onnx_lowrank.calibrate.collect import collect_targets
from onnx_lowrank.calibrate.data.prefetch import prefetch
from onnx_lowrank.calibrate.data.preprocess import Preprocessing, preset
from onnx_lowrank.calibrate.data.samples import Samples, iterate_batches, open_samples, synthetic_samples
from onnx_lowrank.calibrate.data.sources import ImageSource
from onnx_lowrank.calibrate.positions import layer_positions
from onnx_lowrank.calibrate.propagate import Propagation
from onnx_lowrank.calibrate.split import Split, default_batch, draw_samples, split_samples

__all__ = [
    "ImageSource",
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
    "prefetch",
    "preset",
    "split_samples",
    "synthetic_samples",
]
