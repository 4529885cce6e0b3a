"""Short trainings, and what they are judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank.torch import Finetuned, FinetuneSettings, Marks, finetune
from onnx_lowrank.torch.training.trainer import Trainer
from tests.helpers import run
from tests.torch.pairs import Pair

Array = NDArray[Any]
QUICK = FinetuneSettings(epochs=3, batch_size=16, learning_rate=0.01, threads=1, provider="cpu", held_out=0.2)


def trained(made: Pair, **changes: Any) -> Finetuned:
    return finetune(made.original, made.converted, made.samples, QUICK, **changes)


def held_out(count: int, settings: FinetuneSettings = QUICK, fixed: int = 1) -> Array:
    """Which samples are held out, written down again."""
    kept = max(2, fixed, round(settings.held_out * count)) // fixed * fixed
    return np.random.default_rng(settings.seed).permutation(count)[:kept]


def assert_same_weights(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def squared(original: onnx.ModelProto, model: onnx.ModelProto, input_: str, batch: Array, name: str) -> float:
    """Relative squares of all outputs, in onnxruntime."""
    step = 4 if name == "fixed batch" else len(batch)
    total = 0.0
    pieces = [batch[start : start + step] for start in range(0, len(batch), step)]
    outputs = [[run(each, {input_: piece}) for piece in pieces] for each in (original, model)]
    for output in outputs[0][0]:
        wanted, found = (np.concatenate([each[output] for each in side]).astype(np.float64) for side in outputs)
        total += float(((wanted - found) ** 2).mean() / (wanted**2).mean())
    return total


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Marks that go as written, the first those of the network as it came."""
    left = iter(losses)
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: Marks(next(left)))
