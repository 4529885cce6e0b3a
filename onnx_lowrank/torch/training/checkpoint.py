"""Checkpoints: the state of a training between two epochs, in a file that is complete or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onnx_lowrank.errors import OutputError
from onnx_lowrank.graph import Publication

State = Mapping[str, Tensor]
_PARTS = ("state", "momentum", "best")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a training between two epochs.

    Attributes:
        state: of the network and everything that is trained with it.
        momentum: of the optimizer, by weight.
        best: weights of the best epoch so far.
        notes: everything else, as JSON values.
    """

    state: State
    momentum: State
    best: State
    notes: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the checkpoint; an older file stays until the new one is complete.

        Raises:
            OutputError: it cannot be written.
        """
        parts = zip(_PARTS, (self.state, self.momentum, self.best), strict=True)
        tensors = {
            f"{part}/{key}": tensor.detach().cpu().contiguous().clone()
            for part, state in parts
            for key, tensor in state.items()
        }
        with Publication() as publication:
            file = publication.add(path)
            try:
                save_file(tensors, file, {"notes": json.dumps(self.notes)})
            except (OSError, SafetensorError) as error:
                raise OutputError(f"{path}: the checkpoint cannot be written ({error}): free some space") from error

    @staticmethod
    def read(path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            OutputError: the file is not a checkpoint.
        """
        try:
            with safe_open(path, "pt") as file:
                notes = json.loads(file.metadata()["notes"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{path}: not a checkpoint ({error}): delete it, or start without `resume`") from error
        state, momentum, best = (
            {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.partition("/")[0] == part}
            for part in _PARTS
        )
        return Checkpoint(state, momentum, best, notes)
