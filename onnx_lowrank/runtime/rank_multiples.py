"""Numbers of channels that runtimes compute without waste, and that ranks are therefore multiples of.

| runtime                         | block                   | in wide layers | from                               |
|---------------------------------|-------------------------|----------------|------------------------------------|
| onnxruntime, CPU                | 16 with AVX-512, else 8 | see below      | MLAS; measured                     |
| onnxruntime, CUDA               | 8                       | 64             | Tensor Cores: 4 in TF32, 8 in fp16 |
| onnxruntime, TensorRT; TensorRT | 8                       | 64             | TensorRT's best practices          |
| OpenVINO, also as plugin        | 16 with AVX-512, else 8 | the same       | oneDNN's blocked layouts           |
| LiteRT                          | 8                       | 8              | XNNPACK's micro-kernels            |
| ncnn                            | 8                       | 8              | its packed layouts; measured       |
| MNN                             | 4                       | 4              | its NC4HW4 layout                  |

onnxruntime's CPU provider hands out work by sets of four blocks and rows. Before 1.30 a set of fewer blocks counted as
much as a full one, so that a thread waited for the other (microsoft/onnxruntime#31660). The busier one of two threads
took, in ms of its own time, for a 3 x 3 convolution of 256 channels to these on maps of 56 x 56 with AVX2:

| onnxruntime | 32   | 40   | 48   | 56   | 64   |
|-------------|------|------|------|------|------|
| 1.29.0      | 3.13 | 5.20 | 5.20 | 5.27 | 5.48 |
| 1.32.0      | 2.84 | 3.91 | 4.15 | 5.08 | 5.42 |

Other runtimes with AVX2, ms of one thread's own time for a 3 x 1 convolution of 256 channels to these and a 1 x 3 one
back, on maps of 28 x 28. MNN's times rise by fours, those of ncnn by eights: 28 channels take as long as 32.

| runtime           | 20   | 24   | 28   | 32   | 36   | 40   | 44   | 48   | 52   | 56   |
|-------------------|------|------|------|------|------|------|------|------|------|------|
| ncnn 1.0.20261020 | 1.05 | 1.11 | 1.37 | 1.29 | 1.41 | 1.52 | 1.90 | 1.92 | 2.28 | 1.99 |
| MNN 3.6.1         | 0.87 | 0.92 | 1.06 | 1.14 | 1.25 | 1.33 | 1.46 | 1.53 | 1.63 | 1.84 |
| OpenVINO 2026.4.1 | 0.82 | 0.85 | 1.17 | 1.07 | 1.32 | 1.29 | 1.55 | 1.43 | 1.65 | 1.63 |
"""

from __future__ import annotations

_BALANCED_SINCE = (1, 30)  # onnxruntime shares ragged sets out evenly
_BLOCKS_PER_SET = 4
_BLOCKS = {"ncnn": 8, "mnn": 4, "litert": 8, "tensorrt": 8}
_PREFERRED_ON_GPU = 64
_MIN_STEPS = 8  # with fewer multiples up to the largest rank, choosing among them costs too much accuracy
_ON_GPU = frozenset({"cuda", "tensorrt"})


def runs_on_gpu(runtime: str, provider: str) -> bool:
    """Return whether networks run on a GPU, for arguments as of `channel_block`."""
    return runtime == "tensorrt" or (runtime == "onnxruntime" and provider in _ON_GPU)


def channel_block(runtime: str, provider: str, *, has_avx512: bool) -> int:
    """Return the number of channels that kernels process at a time.

    Args:
        runtime: ``onnxruntime``, ``openvino``, ``ncnn``, ``mnn``, ``litert`` or ``tensorrt``.
        provider: of onnxruntime: ``cpu``, ``cuda`` or ``tensorrt``; a plugin on the CPU counts as ``cpu``.
        has_avx512: of the processor that it runs on.
    """
    if runtime in _BLOCKS:
        return _BLOCKS[runtime]
    return 16 if has_avx512 and provider not in _ON_GPU else 8


def wide_multiple(runtime: str, version: str, provider: str, threads: int, block: int) -> int:
    """Return the multiple to prefer where a layer is wide enough for it; the block where nothing is gained.

    Args:
        runtime: as for `channel_block`.
        version: of the runtime.
        provider: of onnxruntime, as for `channel_block`.
        threads: within an operator; 0 for as many as there are cores.
        block: see `channel_block`.

    >>> wide_multiple("onnxruntime", "1.29.0", "cpu", 2, 16), wide_multiple("onnxruntime", "1.32.0", "cpu", 2, 16)
    (64, 16)
    """
    if runtime != "onnxruntime":
        return _PREFERRED_ON_GPU if runtime == "tensorrt" else block
    if provider in _ON_GPU:
        return _PREFERRED_ON_GPU
    if provider == "cpu" and threads != 1 and _release(version) < _BALANCED_SINCE:
        return _BLOCKS_PER_SET * block
    return block


def layer_multiple(largest: int, block: int, wide: int) -> int:
    """Return what the ranks of a layer are multiples of.

    Args:
        largest: rank that the layer has at most.
        block: see `channel_block`.
        wide: see `wide_multiple`.
    """
    return wide if largest >= _MIN_STEPS * wide else block


def _release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version; the newest for what is none."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else _BALANCED_SINCE
