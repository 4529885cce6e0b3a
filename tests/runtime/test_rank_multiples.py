import pytest

from onnx_lowrank.runtime.latency_table import Machine
from onnx_lowrank.runtime.rank_multiples import channel_block, layer_multiple, wide_multiple


@pytest.mark.parametrize(
    ("runtime", "provider", "has_avx512", "block"),
    [
        ("onnxruntime", "cpu", True, 16),
        ("onnxruntime", "cpu", False, 8),
        ("onnxruntime", "openvino", True, 16),
        ("onnxruntime", "cuda", True, 8),
        ("onnxruntime", "tensorrt", True, 8),
        ("openvino", "cpu", True, 16),
        ("openvino", "cpu", False, 8),
        ("ncnn", "cpu", True, 8),
        ("mnn", "cpu", True, 4),
        ("litert", "cpu", True, 8),
        ("tensorrt", "cpu", True, 8),
    ],
)
def test_block(runtime: str, provider: str, has_avx512: bool, block: int) -> None:
    assert channel_block(runtime, provider, has_avx512=has_avx512) == block


@pytest.mark.parametrize(
    ("runtime", "version", "provider", "threads", "block", "wide"),
    [
        ("onnxruntime", "1.29.0", "cpu", 2, 16, 64),
        ("onnxruntime", "1.20.1", "cpu", 2, 8, 32),
        ("onnxruntime", "1.29.0", "cpu", 0, 8, 32),  # as many threads as cores
        ("onnxruntime", "1.29.0", "cpu", 1, 16, 16),  # nobody to wait for
        ("onnxruntime", "1.30.0", "cpu", 2, 16, 16),
        ("onnxruntime", "2.0.1", "cpu", 2, 16, 16),
        ("onnxruntime", "1.29.0", "openvino", 2, 16, 16),  # kernels of its own
        ("onnxruntime", "1.29.0", "cuda", 2, 8, 64),
        ("onnxruntime", "1.31.1", "tensorrt", 0, 8, 64),
        ("onnxruntime", "a build of mine", "cpu", 2, 16, 16),
        ("tensorrt", "11.0", "cuda", 0, 8, 64),
        ("ncnn", "1.0.20261020", "cpu", 2, 8, 8),
        ("mnn", "3.6.1", "cpu", 2, 4, 4),
        ("openvino", "2026.4.1", "cpu", 2, 16, 16),
    ],
)
def test_multiple_of_wide_layers(
    runtime: str, version: str, provider: str, threads: int, block: int, wide: int
) -> None:
    assert wide_multiple(runtime, version, provider, threads, block) == wide


def test_narrow_layers_keep_the_finer_steps() -> None:
    assert [layer_multiple(largest, 8, 32) for largest in (64, 255, 256, 512)] == [8, 8, 32, 32]
    assert [layer_multiple(largest, 16, 16) for largest in (64, 512)] == [16, 16]


def test_a_table_says_what_its_machine_prefers() -> None:
    older = Machine("onnxruntime", "1.29.0", "f32", "cpu", "AMD EPYC", 2, 8)
    assert older.wide_multiple == 32
    assert Machine("onnxruntime", "1.32.0", "f32", "cpu", "AMD EPYC", 2, 8).wide_multiple == 8
