"""The choice of the tensors that are compared between the original and the converted network."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from onnx_lowrank.calibrate import Samples
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch.module.to_module import OnnxModule
from onnx_lowrank.torch.training.dataset import Batch, DistillationData, Shard
from onnx_lowrank.torch.training.objective import Objective, converted_tensors, ends_in_softmax
from onnx_lowrank.torch.training.trainer import as_list

log = logging.getLogger(__name__)

_MEASURED_SAMPLES = 256  # at least a batch: samples that statistics of tensors are taken from


def build_objective(
    networks: tuple[Network, Network],
    modules: tuple[OnnxModule, OnnxModule],
    dataset: DistillationData,
    settings: FinetuneSettings,
) -> Objective:
    """Choose the tensors to compare, set them as outputs of both modules, and return the loss on them.

    Args:
        networks: the original and the converted network.
        modules: the same in PyTorch, teacher and student; their ``outputs`` are changed.
        dataset: samples to train and evaluate on.
        settings: how to train.

    Raises:
        ModelError: the networks have no output in common that can be learned.
    """
    (original, converted), (teacher, student) = networks, modules
    graph = original.original.graph
    graph_outputs = teacher.outputs
    inner = converted_tensors(graph, converted.original.graph) if settings.match else []
    teacher.outputs = (*graph_outputs, *(name for name in inner if name not in graph_outputs))
    tensors = _per_sample_tensors(teacher, dataset)
    outputs = [name for name in graph_outputs if name in tensors]
    if not outputs:
        raise ModelError(
            f"{original.name}: no output is a tensor of one row per sample: there is nothing to learn from"
        )
    _check_outputs(original, converted, tensors)
    student.outputs = tuple(tensors)
    actual = _tensors(student, dataset)[0]
    narrowed = [name for name in tensors if name not in outputs and actual[name].shape != tensors[name].shape]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in narrowed}
    teacher.outputs = student.outputs = tuple(tensors)
    _check_shapes(original, converted, tensors, actual)
    scores = tuple(tensors[name].ndim == 2 and tensors[name].shape[1] > 1 for name in outputs)
    return Objective(
        outputs=len(outputs),
        scores=scores,
        probabilities=tuple(ends_in_softmax(graph, name) for name in outputs),
        energies=_energies(teacher, dataset),
        temperature=settings.temperature,
        match=settings.match,
        learn=settings.learn,
    )


def measured_batches(dataset: DistillationData) -> Iterator[Batch]:
    """Yield held-out batches to take statistics of tensors from, the same in every process."""
    return replace(dataset, shard=Shard()).held_out_batches(max(dataset.batch_size, _MEASURED_SAMPLES))


def _per_sample_tensors(teacher: OnnxModule, dataset: DistillationData) -> dict[str, Tensor]:
    """Return the outputs of a module for one batch, by name: floating-point ones with a row per sample."""
    tensors, count = _tensors(teacher, dataset)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.ndim > 0 and len(tensor) == count
    }


@torch.no_grad()
def _tensors(module: OnnxModule, dataset: DistillationData) -> tuple[dict[str, Tensor], int]:
    """Return the outputs of a module for one batch, by name, and the number of samples."""
    device = next(iter(module.state_dict().values())).device
    batch = next(iter(dataset.held_out_batches(dataset.batch_size))).to(device)
    return dict(zip(module.outputs, as_list(module(*batch.inputs)), strict=True)), batch.count


@torch.no_grad()
def _energies(teacher: OnnxModule, dataset: DistillationData) -> tuple[float, ...]:
    """Return the mean square of every compared tensor."""
    device = next(iter(teacher.state_dict().values())).device
    sums, count = [0.0] * len(teacher.outputs), 0
    for batch in measured_batches(dataset):
        tensors = as_list(teacher(*batch.to(device).inputs))
        sums = [
            total + float(tensor.float().reshape(len(tensor), -1).square().mean(1).sum())
            for total, tensor in zip(sums, tensors, strict=True)
        ]
        count += batch.count
    return tuple(total / count for total in sums)


def _check_outputs(original: Network, converted: Network, tensors: Mapping[str, Tensor]) -> None:
    """Raise where the converted network lacks an output of the original."""
    ours, theirs = ([value.name for value in each.original.graph.output] for each in (original, converted))
    if any(name in ours and name not in theirs for name in tensors):
        raise ModelError(
            f"{original.name} has the outputs {', '.join(ours)}, {converted.name} has "
            f"{', '.join(theirs)}: take the network that was made of the original"
        )


def _check_shapes(
    original: Network, converted: Network, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]
) -> None:
    """Raise where a tensor of the converted network has another shape than the original's."""
    for name, tensor in expected.items():
        if actual[name].shape != tensor.shape:
            raise ModelError(
                f"{converted.name}: '{name}' has shape {tuple(actual[name].shape)}, that of {original.name} "
                f"{tuple(tensor.shape)}: take the network that was made of it"
            )


def with_fitting_labels(
    name: str, teacher: OnnxModule, dataset: DistillationData, settings: FinetuneSettings
) -> DistillationData:
    """Return the data, without labels of classes that the network does not score where these are not learned.

    Args:
        name: of the original network.
        teacher: it.
        dataset: samples to train and evaluate on.
        settings: how to train.

    Raises:
        CalibrationError: labels are learned, and do not fit its first output.
    """
    both = (dataset.samples, dataset.validation)
    if all(samples.labels is None for samples in both):
        return dataset
    first, scores = next(iter(_per_sample_tensors(teacher, dataset).items()), ("", None))
    classes = scores.shape[1] if scores is not None and scores.ndim == 2 else 0
    try:
        _check_labels(name, both, classes, first)
    except CalibrationError as error:
        if settings.learn != "original" or settings.class_names is not None:
            raise
        log.info("class folders are not taken for classes: %s", error)
        samples, validation = (replace(each, labels=None, label_rule=None) for each in both)
        return replace(dataset, samples=samples, validation=validation if dataset.has_own_validation else samples)
    return replace(dataset, classes=classes)


def _check_labels(name: str, data: Iterable[Samples], classes: int, output: str) -> None:
    """Raise where the first output does not score the classes of the data."""
    if classes < 2:
        raise CalibrationError(f"{name}: its first output is no row of scores: learn without labels")
    for samples in data:
        samples.check_labels(classes, output)
