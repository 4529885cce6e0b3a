"""What became of a block of layers whose weights were trained together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class RefinedBlock:
    """A block of a few converted layers.

    Attributes:
        tensors: names of its outputs, which are compared with the original's.
        layers: names of the outputs of the converted layers in it.
        before: relative error of its outputs on samples set aside, as it was solved; None where it cannot be trained.
        after: the same as it was left; like ``before`` where training did not help.
    """

    tensors: tuple[str, ...]
    layers: tuple[str, ...]
    before: float | None = None
    after: float | None = None

    @property
    def refined(self) -> bool:
        """Whether it has other weights than before."""
        return self.before != self.after

    def discarded(self) -> RefinedBlock:
        """Return the block with the weights that it came with."""
        return replace(self, after=self.before)

    def to_dict(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return {"tensors": list(self.tensors), "layers": list(self.layers), "before": self.before, "after": self.after}
