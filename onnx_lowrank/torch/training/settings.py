"""Every knob of fine-tuning and its default, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LESSONS = ("original", "labels", "both")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        learn: what from: ``original``: what the original network makes of the samples, which needs no labels;
            ``labels``: the class folders of the data; ``both``.
        epochs: passes over the training samples.
        batch_size: samples per step, over all processes. A fixed batch in the model goes first.
        learning_rate: length of a step relative to a weight, at its highest; None to find it in short trials. It rises
            for a twentieth of the steps and falls along a cosine to nothing.
        temperature: that softens the scores of classifiers before they are compared; 0 compares outputs as they are.
        match: weight of the differences at the converted layers themselves, beside those of the outputs.
        normalize: put batch normalization behind convolutions while training, which is folded into their weights in
            the end; with batches of less than 16 samples there is none.
        augment: flip and shift images at random.
        samples: to use at all; None for all.
        held_out: share of the samples that is never trained on, by which the best epoch is chosen.
        patience: epochs without an improvement after which to stop; None for never.
        seed: of all randomness.
        provider: ``auto``, ``cpu`` or ``cuda``.
        precision: of the forward pass: ``fp32``, ``bf16``, or ``auto``: the latter where a GPU has it.
        threads: of PyTorch; None for all.
        input_shapes: shape by input name, where the model leaves axes open.
        constant_inputs: numbers by name of the inputs that are always fed the same.

    Raises:
        ValueError: a field is out of its range.
    """

    learn: str = "original"
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
    provider: str = "auto"
    precision: str = "auto"
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
        choices = {"learn": LESSONS, "precision": PRECISIONS, "provider": ("auto", "cpu", "cuda")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
