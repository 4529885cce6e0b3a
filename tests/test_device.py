from __future__ import annotations

from pathlib import Path

import pytest

from onnx_lowrank.device import rank_block
from onnx_lowrank.runtime import Provider


def test_rank_block() -> None:
    assert rank_block(Provider("cuda")) == 8
    assert rank_block(Provider("cpu")) in {8, 16}


@pytest.mark.parametrize(("flags", "block"), [("sse avx2 avx512f", 16), ("sse avx2", 8)])
def test_rank_block_goes_by_the_processor(monkeypatch: pytest.MonkeyPatch, flags: str, block: int) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : {flags}")
    assert rank_block(Provider("cpu")) == block


def test_rank_block_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert rank_block(Provider("cpu")) == 8
