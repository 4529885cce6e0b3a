"""What fine-tuning makes small, and what it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Marks:
    """How a network does on samples that it is not trained on.

    Attributes:
        loss: mean of what training makes small.
        agreement: share of samples with the same top class as the original; None where the output is no row of scores.
        accuracy: share of samples whose top class is their label; None without labels or scores.
        original_accuracy: that of the original.
        label_loss: mean cross-entropy of the labels; None where they are not learnt, or those that judge were held
            back from the samples.
    """

    loss: float
    agreement: float | None = None
    accuracy: float | None = None
    original_accuracy: float | None = None
    label_loss: float | None = None

    def better_than(self, other: Marks) -> bool:
        """Whether the loss is smaller; that of the labels alone where it is known, since they are the truth.

        What was converted with little loss agrees with the original where that is wrong, too: it has to disagree to get
        better. Accuracy would be a poor judge: on some thousand samples it moves by more than an epoch brings.
        """
        ours, theirs = self.loss, other.loss
        if self.label_loss is not None and other.label_loss is not None:
            ours, theirs = self.label_loss, other.label_loss
        return isfinite(ours) and not (isfinite(theirs) and theirs <= ours)

    def falls_behind(self, other: Marks) -> bool:
        """Whether fewer samples are right than were."""
        return self.accuracy is not None and other.accuracy is not None and self.accuracy < other.accuracy

    def __str__(self) -> str:
        shares = {"same top class": self.agreement, "right": self.accuracy, "original": self.original_accuracy}
        losses = {"loss": self.loss, "of labels": self.label_loss}
        said = [f"{what} {x:.4g}" for what, x in losses.items() if x is not None]
        return ", ".join([*said, *(f"{what} {x:.2%}" for what, x in shares.items() if x is not None)])


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of one sample, by what the original makes of it and by its label.

    Rows of scores are compared as softened probabilities (Kullback-Leibler divergence, times the temperature squared;
    Hinton, Vinyals, Dean 2015), everything else by the square of the difference, relative to the mean square of the
    original's output.

    Attributes:
        outputs: how many of the tensors compared are outputs; the others are inner ones.
        scores: per output, whether it is a row of scores of classes.
        probabilities: per output, whether a Softmax is behind it.
        energies: per tensor, mean square of the original's over the samples.
        temperature: of softening; 0 compares scores like everything else.
        match: weight of inner tensors.
        learn: ``original``, ``labels`` or ``both``.
    """

    outputs: int
    scores: tuple[bool, ...]
    probabilities: tuple[bool, ...]
    energies: tuple[float, ...]
    temperature: float
    match: float
    learn: str

    def losses(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """Of every sample, shape (samples,).

        Args:
            ours: tensors of the network in training.
            theirs: those of the original.
            labels: class of each sample.
        """
        total = ours[0].new_zeros(len(ours[0]), dtype=torch.float32)
        if self.learn != "labels":
            for place in range(self.outputs):
                total = total + self._distance(place, ours[place].float(), theirs[place].float())
        if self.learn != "original" and labels is not None:
            total = total + self.label_losses(ours[0], labels)
        for place in range(self.outputs, len(ours)):
            total = total + self.match * self._square(place, ours[place].float(), theirs[place].float())
        return total

    def label_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of every sample's label, shape (samples,)."""
        return F.cross_entropy(self._logits(0, scores.float()), labels, reduction="none")

    def hits(self, ours: Tensor, theirs: Tensor, labels: Tensor | None) -> Tensor:
        """How often the top class is the original's, how often it and the original's are right, shape (3,)."""
        top, original = ours.argmax(1), theirs.argmax(1)
        truth = torch.full_like(top, -1) if labels is None else labels
        return torch.stack([(top == original).sum(), (top == truth).sum(), (original == truth).sum()])

    def _distance(self, place: int, ours: Tensor, theirs: Tensor) -> Tensor:
        if not self.scores[place] or not self.temperature:
            return self._square(place, ours, theirs)
        soft, goal = (F.log_softmax(self._logits(place, each) / self.temperature, 1) for each in (ours, theirs))
        return self.temperature**2 * F.kl_div(soft, goal, reduction="none", log_target=True).sum(1)

    def _square(self, place: int, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).reshape(len(ours), -1).square().mean(1) / max(self.energies[place], _LEAST_PROBABILITY)

    def _logits(self, place: int, scores: Tensor) -> Tensor:
        return scores.clamp(min=_LEAST_PROBABILITY).log() if self.probabilities[place] else scores


def ends_in_softmax(graph: onnx.GraphProto, output: str) -> bool:
    """Whether a graph's output is a row of probabilities that a Softmax made."""
    makers = {name: node for node in graph.node for name in node.output}
    while (node := makers.get(output)) is not None and node.op_type in {"Identity", "Cast", "Flatten", "Reshape"}:
        output = node.input[0]
    return node is not None and node.op_type == "Softmax"


def converted_tensors(original: onnx.GraphProto, converted: onnx.GraphProto) -> list[str]:
    """Tensors of both graphs that are computed in different ways: the responses of converted layers."""
    makers = [{name: node for node in graph.node for name in node.output} for graph in (original, converted)]
    shared = makers[0].keys() & makers[1].keys()
    return sorted(name for name in shared if list(makers[0][name].input) != list(makers[1][name].input))
