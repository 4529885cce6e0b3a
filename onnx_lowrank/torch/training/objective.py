"""The loss of fine-tuning, and the metrics that networks are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnx_lowrank.graph.blocks import changed_tensors
from onnx_lowrank.settings import Learn

_MIN_PROBABILITY = 1e-12
_MIN_ENERGY = 1e-12


@dataclass(frozen=True)
class Metrics:
    """The quality of a network on held-out samples.

    Attributes:
        loss: mean training loss.
        agreement: fraction of samples with the same top class as the original; None where the output is not a row of
            scores.
        accuracy: fraction of samples whose top class is their label; None without labels or scores.
        original_accuracy: accuracy of the original.
        label_loss: mean cross-entropy of the labels; None where they are not learned, or where the held-out samples
            are part of the training data set.
        metric: score of the metric that epochs are chosen by, higher is better; None without one.
    """

    loss: float
    agreement: float | None = None
    accuracy: float | None = None
    original_accuracy: float | None = None
    label_loss: float | None = None
    metric: float | None = None

    def better_than(self, other: Metrics) -> bool:
        """Whether the metric is higher; without one, or where it is the same, whether the loss is smaller.

        The loss on the labels where both have one, as labels are the truth.

        A network that was converted with little loss agrees with the original even where that is wrong, and has to
        disagree to get better. Accuracy would be a poor criterion: on some thousand samples it varies by more than an
        epoch gains.
        """
        if self.metric is not None and other.metric is not None and self.metric != other.metric:
            return self.metric > other.metric
        ours, theirs = self.loss, other.loss
        if self.label_loss is not None and other.label_loss is not None:
            ours, theirs = self.label_loss, other.label_loss
        return isfinite(ours) and not (isfinite(theirs) and theirs <= ours)

    def falls_behind(self, other: Metrics) -> bool:
        """Whether the accuracy is lower, where no metric says what counts."""
        if self.metric is not None:
            return False
        return self.accuracy is not None and other.accuracy is not None and self.accuracy < other.accuracy

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields by name, without a metric that was not asked for."""
        return {name: value for name, value in vars(self).items() if name != "metric" or value is not None}

    def __str__(self) -> str:
        fractions = {"same top class": self.agreement, "right": self.accuracy, "original": self.original_accuracy}
        losses = {"loss": self.loss, "of labels": self.label_loss}
        texts = [f"{name} {value:.4g}" for name, value in losses.items() if value is not None]
        texts += [f"{name} {value:.2%}" for name, value in fractions.items() if value is not None]
        texts += [] if self.metric is None else [f"metric {self.metric:.4g}"]
        return ", ".join(texts)


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a sample: its distance from the outputs of the original, from its label, or both.

    Rows of scores are compared as softened probabilities (Kullback-Leibler divergence times the squared temperature;
    Hinton, Vinyals, Dean 2015, arXiv:1503.02531), everything else by the mean squared difference, relative to the mean
    square of the original's tensor.

    Attributes:
        outputs: number of compared tensors that are outputs; the others, behind them, are inner ones.
        scores: per output, whether it is a row of class scores.
        probabilities: per output, whether the scores are probabilities, made by a Softmax.
        energies: per tensor, mean square of the original's over the samples.
        temperature: of the softening; 0 compares scores like everything else.
        match: weight of inner tensors.
        learn: what to learn from.
    """

    outputs: int
    scores: tuple[bool, ...]
    probabilities: tuple[bool, ...]
    energies: tuple[float, ...]
    temperature: float
    match: float
    learn: Learn

    def losses(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """Return the loss of every sample, shape (samples,).

        Args:
            ours: tensors of the network in training; the first axis is that of samples.
            theirs: those of the original, of the same shapes.
            labels: class of each sample, shape (samples,).
        """
        total = ours[0].new_zeros(len(ours[0]), dtype=torch.float32)
        if self.learn != "labels":
            for number in range(self.outputs):
                total = total + self._distances(number, ours[number].float(), theirs[number].float())
        if self.learn != "original" and labels is not None:
            total = total + self.label_losses(ours[0], labels)
        for number in range(self.outputs, len(ours)):
            total = total + self.match * self._squares(number, ours[number].float(), theirs[number].float())
        return total

    def label_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of every sample's label, shape (samples,)."""
        return F.cross_entropy(self._logits(0, scores.float()), labels, reduction="none")

    def hits(self, ours: Tensor, theirs: Tensor, labels: Tensor | None) -> Tensor:
        """Count samples with the same top class, those the network has right and those the original has; shape (3,)."""
        top, original = ours.argmax(1), theirs.argmax(1)
        truth = torch.full_like(top, -1) if labels is None else labels
        return torch.stack([(top == original).sum(), (top == truth).sum(), (original == truth).sum()])

    def _distances(self, number: int, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the distances of an output from the original's."""
        if not self.scores[number] or not self.temperature:
            return self._squares(number, ours, theirs)
        soft, goal = (F.log_softmax(self._logits(number, x) / self.temperature, 1) for x in (ours, theirs))
        return self.temperature**2 * F.kl_div(soft, goal, reduction="none", log_target=True).sum(1)

    def _squares(self, number: int, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).reshape(len(ours), -1).square().mean(1) / max(self.energies[number], _MIN_ENERGY)

    def _logits(self, number: int, scores: Tensor) -> Tensor:
        return scores.clamp(min=_MIN_PROBABILITY).log() if self.probabilities[number] else scores


def ends_in_softmax(graph: onnx.GraphProto, output: str) -> bool:
    """Return whether an output of a graph is a row of probabilities that a Softmax makes."""
    producers = {name: node for node in graph.node for name in node.output}
    while (node := producers.get(output)) is not None and node.op_type in {"Identity", "Cast", "Flatten", "Reshape"}:
        output = node.input[0]
    return node is not None and node.op_type == "Softmax"


def converted_tensors(original: onnx.GraphProto, converted: onnx.GraphProto) -> list[str]:
    """Return the names of tensors that both graphs compute, but in different ways: outputs of converted layers.

    Where such an output is only added to a shortcut, the sum takes its place: what is left of a branch may differ by
    much where the sum hardly does.
    """
    made = {name for node in converted.node for name in node.output}
    return sorted({_sum_behind(name, original) for name in changed_tensors(original, converted)} & made)


def _sum_behind(tensor: str, graph: onnx.GraphProto) -> str:
    """Return the sum with another tensor that is all that a tensor is read for; else the tensor itself."""
    readers = [node for node in graph.node if tensor in node.input]
    weights = {each.name for each in graph.initializer}
    if len(readers) == 1 and readers[0].op_type == "Add" and weights.isdisjoint(readers[0].input):
        return str(readers[0].output[0])
    return tensor
