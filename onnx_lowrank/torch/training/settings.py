"""Every option of fine-tuning, with its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Learn = Literal["original", "labels", "both"]
ProviderChoice = Literal["auto", "cpu", "cuda"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]
_CHOICES: dict[str, Any] = {"learn": Learn, "precision": PrecisionChoice, "provider": ProviderChoice}


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        learn: what to learn from: ``original``: the outputs of the original network, without labels; ``labels``: the
            class folders of the data; ``both``.
        epochs: passes over the training samples.
        batch_size: samples per step, over all processes. A batch size that is fixed in the model takes precedence.
        learning_rate: peak length of a step relative to a weight; None to find it by short trials. It is warmed up for
            a twentieth of the steps and decays along a cosine to zero.
        temperature: softens the scores of classifiers before they are compared; 0 compares outputs as they are.
        match: weight of the differences at the converted layers themselves, in addition to those of the outputs.
        normalize: put batch normalization behind convolutions while training, which is folded into their weights in
            the end. Batches of fewer than 16 samples are trained without.
        augment: flip and shift images at random.
        samples: number of samples to use; None for all.
        held_out: fraction of the samples that is never trained on, by which the best epoch is chosen.
        patience: epochs without an improvement after which to stop; None for never.
        seed: of all randomness.
        provider: ``auto``, ``cpu`` or ``cuda``.
        precision: of the forward pass: ``fp32``, ``bf16``, or ``auto``: bf16 on a GPU that supports it.
        threads: of PyTorch; None for all.
        input_shapes: shape by input name, where the model leaves axes open.
        constant_inputs: values by name of the inputs that are the same for every sample.

    Raises:
        ValueError: a field is out of its range.
    """

    learn: Learn = "original"
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float | None = None
    temperature: float = 4.0
    match: float = 0.0
    normalize: bool = True
    augment: bool = True
    samples: int | None = None
    held_out: float = 0.1
    patience: int | None = None
    seed: int = 0
    provider: ProviderChoice = "auto"
    precision: PrecisionChoice = "auto"
    threads: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constant_inputs: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "samples", "patience", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("temperature", "match"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number from 0 on, got {getattr(self, name)}")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share between 0 and 1, got {self.held_out}")
        for name, literal in _CHOICES.items():
            if getattr(self, name) not in get_args(literal):
                raise ValueError(f"{name} must be one of {', '.join(get_args(literal))}, got {getattr(self, name)!r}")
