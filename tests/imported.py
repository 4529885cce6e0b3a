"""What processes that are forked have imported already, see `tests.forked`.

All but onnxruntime, which has a thread as soon as it is imported; a fork would be without it.
"""

from contextlib import suppress

import onnx_lowrank.cli
import onnx_lowrank.pipeline

with suppress(ImportError):
    import torch  # noqa: F401

    import onnx_lowrank.torch.training  # noqa: F401
