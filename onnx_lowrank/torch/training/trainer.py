"""The training loop and the evaluation, in one of the processes that train together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import cos, pi
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from onnx_lowrank.torch.module.to_module import OnnxModule
from onnx_lowrank.torch.training.dataset import MAX_HELD_OUT, Batch, DistillationData
from onnx_lowrank.torch.training.muon import Muon
from onnx_lowrank.torch.training.normalize import NormalizedNetwork
from onnx_lowrank.torch.training.objective import Metrics, Objective

_MAX_GRADIENT_NORM = 1.0
_WARMUP_FRACTION = 0.05  # of all steps


class Trainer:
    """Trains a network to do what another one does.

    Args:
        accelerator: the processes and the device.
        student: the network to train, with its normalizations; its weights change.
        teacher: the original.
        objective: the loss.
        dataset: samples to train and evaluate on.
        half: run forward passes in bfloat16.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        student: NormalizedNetwork,
        teacher: OnnxModule,
        objective: Objective,
        dataset: DistillationData,
        *,
        half: bool,
    ) -> None:
        self._accelerator, self._objective, self._dataset, self._half = accelerator, objective, dataset, half
        self._student = student
        self._teacher = teacher
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        optimizer = Muon(weights, lr=0.0)
        self._network, self._optimizer = accelerator.prepare(student, optimizer)

    @property
    def evaluates_labels(self) -> bool:
        """Whether the loss on labels alone says which network is better.

        It does if labels are learned, and the held-out samples are a data set of their own. The original knows the
        labels of its own training samples by heart: they would count any change as a loss.
        """
        has_labels = self._dataset.validation.labels is not None
        return has_labels and self._objective.learn != "original" and self._dataset.has_own_validation

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the network's weights, the normalizations folded into them."""
        return self._student.folded()

    def state(self) -> dict[str, Tensor]:
        """Return a copy of everything that is trained, the normalizations too."""
        return {key: tensor.detach().clone() for key, tensor in self._student.state_dict().items()}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned, and reset the momentum."""
        self._student.load_state_dict(state)
        self._optimizer.state.clear()

    def momentum(self) -> dict[str, Tensor]:
        """Return the momentum of the optimizer, by the key of the weight."""
        state = self._optimizer.state
        buffers = {
            key: state.get(weight, {}).get("momentum_buffer") for key, weight in self._student.named_parameters()
        }
        return {key: buffer for key, buffer in buffers.items() if buffer is not None}

    def set_momentum(self, momentum: Mapping[str, Tensor]) -> None:
        """Restore what `momentum` returned."""
        for key, weight in self._student.named_parameters():
            if key in momentum:
                self._optimizer.state[weight]["momentum_buffer"] = momentum[key].to(weight.device)

    def train(self, batches: Iterable[Batch], rate: float, start: int, total: int) -> float:
        """Train on batches, and return the mean loss of a sample.

        Args:
            batches: to train on.
            rate: peak learning rate.
            start: steps done before.
            total: steps of the whole training, which the schedule of the learning rate is stretched over.
        """
        device, processes = self._accelerator.device, self._accelerator.num_processes
        loss_sum, samples = torch.zeros((), device=device), 0
        self._student.train()
        for step, cpu_batch in enumerate(batches, start=start):
            batch = cpu_batch.to(device)
            for group in self._optimizer.param_groups:
                group["lr"] = rate * warmup_cosine(step, total)
            ours, theirs = self._outputs(batch, self._network)
            # Processes may hold different numbers of samples; scaled like this, the mean of their gradients is the
            # gradient of the whole batch.
            loss = self._objective.losses(ours, theirs, batch.labels).sum() * processes / batch.total
            self._optimizer.zero_grad()
            self._accelerator.backward(loss)
            self._accelerator.clip_grad_norm_(self._network.parameters(), _MAX_GRADIENT_NORM)
            self._optimizer.step()
            loss_sum += loss.detach() * batch.total
            samples += batch.total
        mean = self._sum_over_processes(loss_sum) / (processes * max(1, samples))
        return float(mean)

    @torch.no_grad()
    def evaluate(self, limit: int = MAX_HELD_OUT) -> Metrics:
        """Measure how the network does on the held-out samples, by its outputs: inner tensors are a means.

        Args:
            limit: samples at most.
        """
        device, has_scores = self._accelerator.device, self._objective.scores[0]
        # Samples; loss, loss on labels; agreement, hits, hits of the original.
        sums = torch.zeros(6, dtype=torch.float64, device=device)
        self._student.eval()
        for cpu_batch in self._dataset.held_out_batches(limit):
            batch = cpu_batch.to(device)
            # Not through the distributed wrapper, which waits for the other processes: of the last batch some
            # processes may have no samples.
            ours, theirs = self._outputs(batch, self._student)
            sums[0] += batch.count
            outputs = slice(self._objective.outputs)
            sums[1] += self._objective.losses(ours[outputs], theirs[outputs], batch.labels).sum()
            if self.evaluates_labels and batch.labels is not None:
                sums[2] += self._objective.label_losses(ours[0], batch.labels).sum()
            if has_scores:
                sums[3:] += self._objective.hits(ours[0], theirs[0], batch.labels)
        count, *totals = self._sum_over_processes(sums).tolist()
        loss, label_loss, agreement, accuracy, original_accuracy = [total / count for total in totals]
        metrics = Metrics(loss, label_loss=label_loss if self.evaluates_labels else None)
        if has_scores:
            metrics = replace(metrics, agreement=agreement)
        if has_scores and self._dataset.validation.labels is not None:
            metrics = replace(metrics, accuracy=accuracy, original_accuracy=original_accuracy)
        return metrics

    def _outputs(self, batch: Batch, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs of the network and of the original for a batch."""
        with torch.autocast(self._accelerator.device.type, torch.bfloat16, enabled=self._half):
            with torch.no_grad():
                theirs = self._teacher(*batch.inputs)
            ours = network(*batch.inputs)
        return as_list(ours), as_list(theirs)

    def _sum_over_processes(self, sums: Tensor) -> Tensor:
        reduced: Any = self._accelerator.reduce(sums, reduction="sum")
        return torch.as_tensor(reduced)


def warmup_cosine(step: int, total: int) -> float:
    """Return the fraction of the peak learning rate at a step: a linear warm-up, then a cosine decay to zero."""
    warmup = max(1, round(_WARMUP_FRACTION * total))
    if step < warmup:
        return (step + 1) / warmup
    return (1 + cos(pi * (step - warmup) / max(1, total - warmup))) / 2


def as_list(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """Return the outputs of a module as a list, a single one too."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def place_for_training(module: OnnxModule, device: torch.device) -> OnnxModule:
    """Move a module to its device, with convolutions in the memory layout that is fastest."""
    channels_last: Any = {"memory_format": torch.channels_last}
    moved: nn.Module = module.to(device).to(**channels_last)
    assert isinstance(moved, OnnxModule)
    return moved
