"""What fine-tuning refuses, and how it says so."""

from __future__ import annotations

from math import nan
from typing import Any

import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.errors import CalibrationError, MissingDependencyError, ModelError, VerificationError
from onnx_lowrank.torch import FinetuneSettings, finetune, from_torch, to_torch
from tests.helpers import normal
from tests.networks import images, network
from tests.torch.pairs import in_onnxruntime_alone, pair, perturbed
from tests.torch.trainings import QUICK, trained

Array = NDArray[Any]


def test_no_data_is_said() -> None:
    made = pair("scores")
    with pytest.raises(CalibrationError, match="data: none given, samples to train on are wanted: pass `data`"):
        finetune(made.original, made.converted, None, QUICK)


def test_networks_with_other_inputs_are_refused() -> None:
    made, other = pair("scores"), pair("maps")
    with pytest.raises(ModelError, match=r"<model> takes \[.*12.*\], <model> \[.*8.*\]: take its own"):
        finetune(made.original, other.converted, made.samples, QUICK)


@pytest.mark.parametrize("which", ["original", "converted"])
def test_an_operator_that_pytorch_has_not_is_said(which: str) -> None:
    odd, plain = in_onnxruntime_alone(), network()
    one, two = (odd, plain) if which == "original" else (plain, odd)
    with pytest.raises(ModelError, match="QuickGelu 'quick': there is no such operator in PyTorch"):
        finetune(one, two, images(40, 12), QUICK)


def test_networks_that_share_no_outputs_are_refused() -> None:
    original = pair("scores").original
    other = onnx.ModelProto()
    other.CopyFrom(original)
    other.graph.node[-1].output[0] = other.graph.output[0].name = "logits"
    with pytest.raises(ModelError, match="scores.*logits"):
        finetune(original, other, images(40, 12), QUICK)


def test_networks_whose_outputs_differ_in_shape_are_refused() -> None:
    """As one for other classes."""
    original = pair("scores").original
    other = onnx.ModelProto()
    other.CopyFrom(original)
    (head,) = (each for each in other.graph.initializer if each.name == "f")
    head.CopyFrom(numpy_helper.from_array(normal(0, 16, 6), "f"))
    other.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    with pytest.raises(ModelError, match="scores"):
        finetune(original, other, images(40, 12), QUICK)


def test_a_network_that_pytorch_computes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair("scores")

    def off(model: Any, dtype: Any = None) -> Any:
        module = to_torch(model, dtype)
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(1.01)
        return module

    monkeypatch.setattr("onnx_lowrank.torch.training.setup.to_torch", off)
    with pytest.raises(ModelError, match="<model>: output 'scores': PyTorch and onnxruntime differ by .*: the network"):
        trained(made)


def test_a_network_written_otherwise_than_trained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair("scores")

    def off(weights: Any, model: Any) -> onnx.ModelProto:
        return perturbed(from_torch(weights, model), 0.1)

    monkeypatch.setattr("onnx_lowrank.torch.training.finetune.from_torch", off)
    with pytest.raises(VerificationError, match="output 'scores': PyTorch and onnxruntime differ by .* after training"):
        trained(made)


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match="`provider='cuda'`: PyTorch finds no CUDA device"):
        trained(pair("scores"), provider="cuda")


WRONG: dict[str, tuple[Any, str]] = {
    "epochs": (0, "epochs must be at least 1, got 0"),
    "batch_size": (0, "batch_size must be at least 1"),
    "samples": (0, "samples must be at least 1"),
    "patience": (0, "patience must be at least 1"),
    "threads": (0, "threads must be at least 1"),
    "temperature": (-1.0, "temperature must be a number from 0 on, got -1.0"),
    "match": (nan, "match must be a number from 0 on, got nan"),
    "learning_rate": (0.0, "learning_rate must be above 0, got 0.0"),
    "held_out": (1.0, "held_out must be a share between 0 and 1, got 1.0"),
    "learn": ("teacher", "learn must be one of original, labels, both, got 'teacher'"),
    "precision": ("fp16", "precision must be one of auto, fp32, bf16, got 'fp16'"),
    "provider": ("tpu", "provider must be one of auto, cpu, cuda, got 'tpu'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused(name: str) -> None:
    value, text = WRONG[name]
    with pytest.raises(ValueError, match=text):
        FinetuneSettings(**{name: value})


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(TypeError, match="epoch"):
        trained(pair("scores"), epoch=3)


def test_threads_of_pytorch_are_put_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        trained(pair("maps"), epochs=1)
        assert torch.get_num_threads() == 2
        with pytest.raises(CalibrationError):
            finetune(pair("maps").original, pair("maps").converted, None, QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
