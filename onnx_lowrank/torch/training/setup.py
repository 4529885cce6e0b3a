"""Preparation of a fine-tuning: everything that is fixed before the first step."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from accelerate import Accelerator
from torch import Tensor

from onnx_lowrank.calibrate import Preprocessing, open_samples
from onnx_lowrank.calibrate.data.sample_axes import with_sample_axes
from onnx_lowrank.errors import CalibrationError, MissingDependencyError, ModelError, OutputError, VerificationError
from onnx_lowrank.graph import with_samples_on_scores
from onnx_lowrank.metrics import as_metric
from onnx_lowrank.runtime.network import Network, open_network, open_networks
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch.module.to_module import OnnxModule, to_torch
from onnx_lowrank.torch.training.agreement import CHECKED_SAMPLES, check_module
from onnx_lowrank.torch.training.balance import balance, factor_pairs
from onnx_lowrank.torch.training.comparison import build_objective, measured_batches, with_fitting_labels
from onnx_lowrank.torch.training.dataset import DistillationData, Shard, split
from onnx_lowrank.torch.training.epoch_judge import EpochJudge, epoch_judge
from onnx_lowrank.torch.training.normalize import (
    MIN_NORMALIZED_BATCH,
    NormalizedConvolution,
    NormalizedNetwork,
    normalized_convolutions,
)
from onnx_lowrank.torch.training.objective import Metrics
from onnx_lowrank.torch.training.trainer import Trainer, place_for_training

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Distillation:
    """A fine-tuning that is ready to start.

    Attributes:
        settings: how to train.
        dataset: samples to train and evaluate on.
        trainer: trains the student.
        student: the converted network as a module.
        fingerprints: hashes that identify this training: of the weights of both networks, and of some samples.
        accelerator: the processes and the device.
        axes: of samples in the inputs, by name, where they are not the first, see `Network`.
        judge: measures epochs by a metric; None without one.
    """

    settings: FinetuneSettings
    dataset: DistillationData
    trainer: Trainer
    student: OnnxModule
    fingerprints: Mapping[str, str]
    accelerator: Accelerator
    axes: Mapping[str, int | None]
    judge: EpochJudge | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return bool(self.accelerator.is_main_process)

    def log_once(self, level: int, text: str) -> None:
        """Log a message in the main process only."""
        if self.is_main_process:
            log.log(level, "%s", text)

    def identity(self) -> dict[str, Any]:
        """Return the values that a checkpoint must share with a training that resumes it."""
        settings = {key: value for key, value in vars(self.settings).items() if key not in {"threads", "provider"}}
        settings |= {name: str(settings[name]) for name in ("input_shapes", "constant_inputs")}
        settings["class_names"] = settings["class_names"] and str(settings["class_names"])
        settings["metric"] = None if self.settings.metric is None else as_metric(self.settings.metric).name
        return settings | dict(self.fingerprints)

    def check_same(self, other: Mapping[str, Any], where: Path) -> None:
        """Raise for the checkpoint of a different training.

        Args:
            other: identity that the checkpoint was written with.
            where: file of the checkpoint.

        Raises:
            OutputError: something differs.
        """
        ours = self.identity()
        for key in ours:
            if ours[key] != other.get(key):
                raise OutputError(
                    f"{where}: checkpoint of another training ({key}: {other.get(key)} there, {ours[key]} here): start "
                    "without `resume`, or go on with the same options"
                )

    def evaluate(self) -> Metrics:
        """Measure how the network in training does on the held-out samples, by the metric too if there is one."""
        metrics = self.trainer.evaluate()
        if self.judge is None:
            return metrics
        return replace(metrics, metric=self.judge.measure(self.trainer.weights()).converted)

    def verify(self, model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> None:
        """Check that onnxruntime computes from a model what PyTorch computes from its weights.

        Raises:
            VerificationError: the outputs differ.
        """
        self.student.behind = {}
        self.student.load_state_dict(weights)
        network = open_network(model, choose_provider("cpu"), {})
        try:
            network = _with_samples_first(network, self.axes)
            check_module(network, self.student, self.dataset)
        except ModelError as error:
            raise VerificationError(f"{error} after training") from error


def prepare_distillation(
    original: str | Path | onnx.ModelProto,
    converted: str | Path | onnx.ModelProto,
    data: Any,
    settings: FinetuneSettings,
    preprocessing: Preprocessing | None,
    validation: Any = None,
) -> Distillation:
    """Open both networks and the data, and check that PyTorch computes what onnxruntime does.

    Raises:
        LowRankError: see `finetune`.
    """
    metric = None if settings.metric is None else as_metric(settings.metric)  # raises for one that is none
    accelerator = _accelerator(settings)
    if data is None:
        raise CalibrationError("data: none given, samples to train on are wanted: pass `data`")
    networks, data = _open_networks(original, converted, data, settings)
    inputs, held = networks[0].inputs, networks[0].held or networks[1].held
    samples = open_samples(data, inputs, preprocessing, held, settings.class_names)
    models = (
        network.model if network.axes or network.held else model
        for network, model in zip(networks, (original, converted), strict=True)
    )
    teacher, student = (to_torch(model, torch.float32) for model in models)
    own_validation = (
        None if validation is None else open_samples(validation, inputs, preprocessing, held, settings.class_names)
    )
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    dataset = split(samples, student.inputs, settings, shard, networks[0].fixed_batch, own_validation)
    for network, module in zip(networks, (teacher, student), strict=True):
        check_module(network, module, dataset)
    judge = None if metric is None else epoch_judge(metric, networks, converted, dataset)
    fingerprints = _fingerprints(teacher, student, dataset)
    before, graph = (network.original.graph for network in networks)
    balance(student.state_dict(), factor_pairs(graph), student.keys)
    teacher, student = (place_for_training(module, accelerator.device) for module in (teacher, student))
    teacher.requires_grad_(False)
    dataset = with_fitting_labels(networks[0].name, teacher, dataset, settings)
    objective = build_objective(networks, (teacher, student), dataset, settings)
    normalized = _normalized(student, normalized_convolutions(graph, before), dataset, settings)
    half = _in_half_precision(settings, accelerator.device)
    trainer = Trainer(accelerator, normalized, teacher, objective, dataset, half=half)
    return Distillation(settings, dataset, trainer, student, fingerprints, accelerator, networks[0].axes, judge)


def _accelerator(settings: FinetuneSettings) -> Accelerator:
    if settings.provider == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError(
            "`provider='cuda'`: PyTorch finds no CUDA device: install a build of PyTorch with CUDA, "
            "or use `provider='cpu'`"
        )
    return Accelerator(cpu=settings.provider == "cpu")


def _open_networks(
    original: str | Path | onnx.ModelProto,
    converted: str | Path | onnx.ModelProto,
    data: Any,
    settings: FinetuneSettings,
) -> tuple[tuple[Network, Network], Any]:
    """Open both networks in onnxruntime, check that they take the same inputs, and see where these have samples."""
    provider = choose_provider("cpu", settings.threads)
    first, second = open_networks((original, converted), provider, settings.input_shapes, settings.constant_inputs, {})
    if first.inputs != second.inputs:
        raise ModelError(f"{first.name} takes {list(first.inputs)}, {second.name} {list(second.inputs)}: take its own")
    first, data = with_sample_axes(first, data)
    return (_with_samples_first(first, first.axes), _with_samples_first(second, first.axes)), data


def _with_samples_first(network: Network, axes: Mapping[str, int | None]) -> Network:
    """Return a network with samples on the first axis of its inputs; with one of them on scores that have no axis."""
    network = network.with_samples_first(axes)
    return replace(network, model=with_samples_on_scores(network.model)) if network.one_by_one else network


def _normalized(
    student: OnnxModule,
    convolutions: list[NormalizedConvolution],
    dataset: DistillationData,
    settings: FinetuneSettings,
) -> NormalizedNetwork:
    """Put normalizations into the network, if batches are large enough for them."""
    enabled = settings.normalize and dataset.batch_size >= MIN_NORMALIZED_BATCH
    normalized = NormalizedNetwork(student, convolutions if enabled else ())
    device = next(iter(student.state_dict().values())).device
    normalized.start_as_identity(batch.to(device).inputs for batch in measured_batches(dataset))
    return normalized


def _in_half_precision(settings: FinetuneSettings, device: torch.device) -> bool:
    if settings.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16"


def _fingerprints(teacher: OnnxModule, student: OnnxModule, dataset: DistillationData) -> dict[str, str]:
    sources = f"{dataset.samples.source} {dataset.validation.source}"
    return {
        "original": _hash(teacher.state_dict().items()),
        "converted": _hash(student.state_dict().items()),
        "data": f"{sources} {_hash(_first_held_out(dataset))}",
    }


def _first_held_out(dataset: DistillationData) -> Iterator[tuple[str, Tensor]]:
    """Yield the first held-out samples by input name, which also tell how images were preprocessed."""
    indices = dataset.validation.usable(dataset.held_out[:CHECKED_SAMPLES])
    arrays = dataset.validation.read(indices)
    return ((name, torch.from_numpy(np.ascontiguousarray(arrays[name]))) for name in dataset.inputs)


def _hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for key, tensor in tensors:
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
