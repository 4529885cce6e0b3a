"""One training: the network, the original beside it, the optimizer, on one of the processes that train together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import cos, pi
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from onnx_lowrank.torch.module.to_module import OnnxModule
from onnx_lowrank.torch.training.dataset import MOST_HELD_OUT, Batch, Lessons
from onnx_lowrank.torch.training.muon import Orthogonalized
from onnx_lowrank.torch.training.normalize import Normalized
from onnx_lowrank.torch.training.objective import Marks, Objective

_LONGEST_GRADIENT = 1.0
_WARM_UP = 0.05  # of all steps


class Trainer:
    """Trains a network to do what another one does.

    Args:
        accelerator: the processes and the device.
        student: the network with normalizations; its weights change.
        teacher: the original.
        objective: what to make small.
        lessons: what to train on.
        half: run forward passes in bfloat16.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        student: Normalized,
        teacher: OnnxModule,
        objective: Objective,
        lessons: Lessons,
        *,
        half: bool,
    ) -> None:
        self._accelerator, self._objective, self._lessons, self._half = accelerator, objective, lessons, half
        self._student = student
        self._teacher = teacher
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        optimizer = Orthogonalized(weights, lr=0.0)
        self._network, self._optimizer = accelerator.prepare(student, optimizer)

    @property
    def by_labels(self) -> bool:
        """Whether labels alone judge: they are learnt, and those that judge are samples of their own.

        Labels of samples that the original was trained on it knows by heart: they would speak against any change.
        """
        labelled = self._lessons.judges.labels is not None
        return labelled and self._objective.learn != "original" and self._lessons.unseen

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's weights, as it is without normalizations."""
        return self._student.folded()

    def state(self) -> dict[str, Tensor]:
        """A copy of all that is trained, normalizations too."""
        return {key: tensor.detach().clone() for key, tensor in self._student.state_dict().items()}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave, and forget the momentum."""
        self._student.load_state_dict(state)
        self._optimizer.state.clear()

    def momentum(self) -> dict[str, Tensor]:
        """Of the optimizer, by the key of the weight."""
        state = self._optimizer.state
        known = {key: state.get(weight, {}).get("momentum_buffer") for key, weight in self._student.named_parameters()}
        return {key: buffer for key, buffer in known.items() if buffer is not None}

    def set_momentum(self, momentum: Mapping[str, Tensor]) -> None:
        """Put back what `momentum` gave."""
        for key, weight in self._student.named_parameters():
            if key in momentum:
                self._optimizer.state[weight]["momentum_buffer"] = momentum[key].to(weight.device)

    def train(self, batches: Iterable[Batch], rate: float, start: int, total: int) -> float:
        """Train on batches; returns the mean loss of a sample.

        Args:
            batches: to train on.
            rate: learning rate at its highest.
            start: steps done before.
            total: steps of the whole training, over which the rate rises and falls.
        """
        device, processes = self._accelerator.device, self._accelerator.num_processes
        lost, seen = torch.zeros((), device=device), 0
        self._student.train()
        for step, each in enumerate(batches, start=start):
            batch = each.to(device)
            for group in self._optimizer.param_groups:
                group["lr"] = rate * rise_and_fall(step, total)
            ours, theirs = self._both(batch, self._network)
            # Processes may have different numbers of samples; their mean gradient is that of the whole batch so.
            loss = self._objective.losses(ours, theirs, batch.labels).sum() * processes / batch.total
            self._optimizer.zero_grad()
            self._accelerator.backward(loss)
            self._accelerator.clip_grad_norm_(self._network.parameters(), _LONGEST_GRADIENT)
            self._optimizer.step()
            lost += loss.detach() * batch.total
            seen += batch.total
        mean = self._reduced(lost) / (processes * max(1, seen))
        return float(mean)

    @torch.no_grad()
    def marks(self, most: int = MOST_HELD_OUT) -> Marks:
        """How the network does on the held-out samples.

        Args:
            most: of them.
        """
        device = self._accelerator.device
        # Samples, losses, those of labels, same class, right, original right.
        sums = torch.zeros(6, dtype=torch.float64, device=device)
        labelled, by_labels = self._lessons.judges.labels is not None, self.by_labels
        self._student.eval()
        for each in self._lessons.check(most):
            batch = each.to(device)
            # Not by the network that waits for the other processes: a rest may have samples for some only.
            ours, theirs = self._both(batch, self._student)
            sums[0] += batch.count
            sums[1] += self._objective.losses(ours, theirs, batch.labels).sum()
            if by_labels and batch.labels is not None:
                sums[2] += self._objective.label_losses(ours[0], batch.labels).sum()
            if self._objective.scores[0]:
                sums[3:] += self._objective.hits(ours[0], theirs[0], batch.labels)
        count, *found = self._reduced(sums).tolist()
        loss, of_labels, *shares = [each / count for each in found]
        known = shares[: (3 if labelled else 1) if self._objective.scores[0] else 0]
        marks = Marks(loss, *known)
        return replace(marks, label_loss=of_labels) if by_labels else marks

    def _both(self, batch: Batch, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """What the network and the original make of a batch."""
        with torch.autocast(self._accelerator.device.type, torch.bfloat16, enabled=self._half):
            with torch.no_grad():
                theirs = self._teacher(*batch.inputs)
            ours = network(*batch.inputs)
        return as_list(ours), as_list(theirs)

    def _reduced(self, sums: Tensor) -> Tensor:
        found: Any = self._accelerator.reduce(sums, reduction="sum")
        return torch.as_tensor(found)


def rise_and_fall(step: int, total: int) -> float:
    """Share of the highest learning rate: up in a straight line, down along a cosine."""
    warm = max(1, round(_WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return (1 + cos(pi * (step - warm) / max(1, total - warm))) / 2


def as_list(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """What a module returns, as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def for_training(module: OnnxModule, device: torch.device) -> OnnxModule:
    """A module on its device, convolutions in the layout that is fastest."""
    channels_last: Any = {"memory_format": torch.channels_last}
    moved: nn.Module = module.to(device).to(**channels_last)
    assert isinstance(moved, OnnxModule)
    return moved
