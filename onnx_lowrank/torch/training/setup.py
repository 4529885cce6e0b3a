"""A fine-tuning under way: what is fixed before the first step."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank.calibrate import Preprocessing, open_samples, preset
from onnx_lowrank.errors import CalibrationError, MissingDependencyError, ModelError, OutputError, VerificationError
from onnx_lowrank.runtime.network import Network, open_network
from onnx_lowrank.runtime.session import Session, choose_provider
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch.module.to_module import OnnxModule, to_torch
from onnx_lowrank.torch.training.balance import balance, factor_pairs
from onnx_lowrank.torch.training.dataset import Batch, Lessons, Share, divide
from onnx_lowrank.torch.training.normalize import LEAST_BATCH, Normalized, places_of
from onnx_lowrank.torch.training.objective import Objective, converted_tensors, ends_in_softmax
from onnx_lowrank.torch.training.trainer import Trainer, as_list, for_training

log = logging.getLogger(__name__)

_CHECKED = 4  # samples that PyTorch and onnxruntime are compared on
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 2e-2  # of their outputs, relative; float16 has three digits
_MEASURED = 256  # samples that the size of outputs is measured on


@dataclass(frozen=True, eq=False)
class Course:
    """A fine-tuning under way.

    Attributes:
        settings: how to train.
        lessons: what to train on.
        trainer: the training.
        network: the converted network.
        student: the same as a module.
        fingerprints: what tells this training from others: weights of both networks as they came, and some samples.
        accelerator: the processes and the device.
    """

    settings: FinetuneSettings
    lessons: Lessons
    trainer: Trainer
    network: Network
    student: OnnxModule
    fingerprints: Mapping[str, str]
    accelerator: Accelerator

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.accelerator.is_main_process)

    def say(self, level: int, text: str) -> None:
        """Log something once, not in every process."""
        if self.is_first:
            log.log(level, "%s", text)

    def identity(self) -> dict[str, Any]:
        """What must be the same to go on with a training."""
        settings = {key: value for key, value in asdict(self.settings).items() if key not in {"threads", "provider"}}
        settings |= {"input_shapes": str(settings["input_shapes"]), "constant_inputs": str(settings["constant_inputs"])}
        return settings | dict(self.fingerprints)

    def check_same(self, other: Mapping[str, Any], where: Path) -> None:
        """Refuse to go on with another training.

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

    def verify(self, model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> None:
        """See that onnxruntime gets from a model what PyTorch gets from its weights.

        Raises:
            VerificationError: it does not.
        """
        self.student.behind = {}
        self.student.load_state_dict(weights)
        network = open_network(model, choose_provider("cpu"), {})
        try:
            _check_module(network, self.student, _some(self.lessons))
        except ModelError as error:
            raise VerificationError(f"{error} after training") from error


def prepare_course(
    original: str | Path | onnx.ModelProto,
    converted: str | Path | onnx.ModelProto,
    data: Any,
    settings: FinetuneSettings,
    preprocessing: Preprocessing | None,
    validation: Any = None,
) -> Course:
    """Read both networks and the data, and see that PyTorch computes what onnxruntime does.

    Raises:
        LowRankError: see `finetune`.
    """
    accelerator = _accelerator(settings)
    where = choose_provider("cpu", settings.threads)
    first, second = (
        open_network(model, where, settings.input_shapes, settings.constant_inputs) for model in (original, converted)
    )
    if first.inputs != second.inputs:
        raise ModelError(f"{first.name} takes {list(first.inputs)}, {second.name} {list(second.inputs)}: take its own")
    if data is None:
        raise CalibrationError("data: none given, samples to train on are wanted: pass `data`")
    preprocessing = preprocessing or preset("zero-one")
    samples = open_samples(data, first.inputs, preprocessing)
    teacher, student = to_torch(original, torch.float32), to_torch(converted, torch.float32)
    fixed = next((spec.shape[0] for spec in first.sampled if spec.shape and spec.shape[0]), None)
    share = Share(accelerator.process_index, accelerator.num_processes)
    judges = None if validation is None else open_samples(validation, first.inputs, preprocessing)
    lessons = divide(samples, student.inputs, settings, share, fixed, judges)
    for network, module in ((first, teacher), (second, student)):
        _check_module(network, module, _some(lessons))
    fingerprints = {
        "original": _fingerprint(teacher.state_dict().items()),
        "converted": _fingerprint(student.state_dict().items()),
        "data": f"{samples.source} {lessons.judges.source} {_fingerprint(_tensors(lessons, student.inputs))}",
    }
    balance(student.state_dict(), factor_pairs(second.original.graph), student.keys)
    teacher, student = (for_training(module, accelerator.device) for module in (teacher, student))
    teacher.requires_grad_(False)
    objective = _objective((first, second), (teacher, student), lessons, settings)
    half = settings.precision == "bf16" or (
        settings.precision == "auto" and accelerator.device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    normalized = _normalized(student, second, lessons, settings)
    trainer = Trainer(accelerator, normalized, teacher, objective, lessons, half=half)
    return Course(settings, lessons, trainer, second, student, fingerprints, accelerator)


def _normalized(student: OnnxModule, network: Network, lessons: Lessons, settings: FinetuneSettings) -> Normalized:
    """The network with normalizations, where batches are large enough for them."""
    wanted = settings.normalize and lessons.batch_size >= LEAST_BATCH
    normalized = Normalized(student, places_of(network.original.graph) if wanted else ())
    device = next(iter(student.state_dict().values())).device
    normalized.start(batch.to(device).inputs for batch in _measured(lessons))
    return normalized


def _measured(lessons: Lessons) -> Iterator[Batch]:
    """Samples to measure tensors on: the same in every process."""
    return replace(lessons, share=Share()).check(max(lessons.batch_size, _MEASURED))


def _fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for key, tensor in tensors:
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _tensors(lessons: Lessons, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The first samples that are kept back, which show how images were prepared, too."""
    indices = lessons.judges.usable(lessons.held_out[:_CHECKED])
    read = lessons.judges.read(indices)
    return ((name, torch.from_numpy(np.ascontiguousarray(read[name]))) for name in names)


def _accelerator(settings: FinetuneSettings) -> Accelerator:
    if settings.provider == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError(
            "`provider='cuda'`: PyTorch finds no CUDA device: install a build of PyTorch with CUDA, "
            "or use `provider='cpu'`"
        )
    return Accelerator(cpu=settings.provider == "cpu")


def _objective(
    networks: tuple[Network, Network],
    modules: tuple[OnnxModule, OnnxModule],
    lessons: Lessons,
    settings: FinetuneSettings,
) -> Objective:
    """What to make small; sets the tensors to compare as outputs of both modules."""
    (original, converted), (teacher, student) = networks, modules
    graph = original.original.graph
    inner = converted_tensors(graph, converted.original.graph) if settings.match else []
    names = teacher.outputs
    teacher.outputs = (*names, *(name for name in inner if name not in names))
    found = _outputs(teacher, lessons)
    kept = [name for name, (tensor, count) in found.items() if _is_by_sample(tensor, count)]
    outputs = [name for name in names if name in kept]
    if not outputs:
        raise ModelError(
            f"{original.name}: no output is a tensor of one row per sample: there is nothing to learn from"
        )
    teacher.outputs = tuple(kept)
    _check_outputs(original, converted, student, lessons, {name: found[name][0].shape for name in kept})
    scores = tuple(found[name][0].ndim == 2 and found[name][0].shape[1] > 1 for name in outputs)
    if settings.learn != "original":
        _check_labels(original.name, lessons, found[outputs[0]][0] if scores[0] else None)
    return Objective(
        outputs=len(outputs),
        scores=scores,
        probabilities=tuple(ends_in_softmax(graph, name) for name in outputs),
        energies=_energies(teacher, lessons),
        temperature=settings.temperature,
        match=settings.match,
        learn=settings.learn,
    )


@torch.no_grad()
def _outputs(teacher: OnnxModule, lessons: Lessons) -> dict[str, tuple[Tensor, int]]:
    """Tensors of one batch by name, and its number of samples."""
    device = next(iter(teacher.state_dict().values())).device
    batch = next(iter(lessons.check(lessons.batch_size))).to(device)
    return {
        name: (tensor, batch.count)
        for name, tensor in zip(teacher.outputs, as_list(teacher(*batch.inputs)), strict=True)
    }


@torch.no_grad()
def _energies(teacher: OnnxModule, lessons: Lessons) -> tuple[float, ...]:
    """Mean squares of the tensors compared; from the same samples in every process."""
    device = next(iter(teacher.state_dict().values())).device
    sums, count = [0.0] * len(teacher.outputs), 0
    for batch in _measured(lessons):
        tensors = as_list(teacher(*batch.to(device).inputs))
        sums = [
            total + float(each.float().reshape(len(each), -1).square().mean(1).sum())
            for total, each in zip(sums, tensors, strict=True)
        ]
        count += batch.count
    return tuple(total / count for total in sums)


def _is_by_sample(tensor: Tensor, count: int) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 0 and len(tensor) == count


def _check_outputs(
    original: Network, converted: Network, student: OnnxModule, lessons: Lessons, wanted: Mapping[str, torch.Size]
) -> None:
    """Have the converted network give what the original does, and see that it can.

    Raises:
        ModelError: an output is not there, or has another shape.
    """
    missing = [name for name in wanted if name in _output_names(original) and name not in _output_names(converted)]
    if missing:
        raise ModelError(
            f"{original.name} has the outputs {', '.join(_output_names(original))}, {converted.name} has "
            f"{', '.join(_output_names(converted))}: take the network that was made of the original"
        )
    student.outputs = tuple(wanted)
    for name, (tensor, _) in _outputs(student, lessons).items():
        if tensor.shape != wanted[name]:
            raise ModelError(
                f"{converted.name}: '{name}' has shape {tuple(tensor.shape)}, that of {original.name} "
                f"{tuple(wanted[name])}: take the network that was made of it"
            )


def _output_names(network: Network) -> list[str]:
    """Names of a network's outputs."""
    return [value.name for value in network.original.graph.output]


def _check_labels(name: str, lessons: Lessons, scores: Tensor | None) -> None:
    labels = [each.labels for each in (lessons.samples, lessons.judges) if each.labels is not None]
    classes = max(int(each.max()) + 1 for each in labels)
    if scores is None or scores.shape[1] < classes:
        found = "no row of scores" if scores is None else f"{scores.shape[1]} scores"
        raise CalibrationError(
            f"{name}: its first output is {found}, the data have {classes} classes: learn without labels"
        )


def _some(lessons: Lessons) -> dict[str, NDArray[Any]]:
    """A few samples as onnxruntime takes them."""
    usable = lessons.judges.usable(lessons.held_out[: lessons.fixed or _CHECKED])
    return lessons.judges.read(np.resize(usable, lessons.fixed) if lessons.fixed else usable)


@torch.no_grad()
def _check_module(network: Network, module: OnnxModule, feeds: Mapping[str, NDArray[Any]]) -> None:
    """See that a module computes what onnxruntime does.

    Raises:
        ModelError: it does not.
    """
    wanted = Session(network.model, network.provider, name=network.name).run(feeds)
    device = next(iter(module.state_dict().values())).device
    tensors = [torch.from_numpy(feeds[name]).to(device) for name in module.inputs]
    names = module.outputs
    module.outputs = tuple(name for name in _output_names(network) if name in wanted)
    try:
        found = as_list(module(*[each.float() if each.is_floating_point() else each for each in tensors]))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        raise ModelError(
            f"{network.name}: PyTorch cannot run it ({error}; {notes}): simplify the model, with onnxslim for example"
        ) from error
    finally:
        compared, module.outputs = module.outputs, names
    for name, tensor in zip(compared, found, strict=True):
        _check_close(network.name, name, wanted[name], tensor.cpu().numpy(), half=_is_half(network.original))


def _check_close(where: str, name: str, wanted: NDArray[Any], found: NDArray[Any], *, half: bool) -> None:
    if wanted.dtype.kind != "f":
        return
    size = float(np.linalg.norm(wanted.astype(np.float64)))
    error = (
        np.inf
        if wanted.shape != found.shape
        else float(np.linalg.norm(wanted.astype(np.float64) - found)) / (size or 1)
    )
    if not error <= (_HALF_TOLERANCE if half else _TOLERANCE):
        raise ModelError(
            f"{where}: output '{name}': PyTorch and onnxruntime differ by {error:.2g} of it: the network cannot be "
            "trained as it is; please report it"
        )


def _is_half(model: onnx.ModelProto) -> bool:
    return any(
        tensor.data_type in {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16} for tensor in model.graph.initializer
    )
