"""Networks as programs of torch.export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch.export import Dim, ExportedProgram

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.publication import Publication, explained
from onnx_lowrank.runtime.network import open_network
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.torch.module.to_module import to_torch


def export_torch(
    model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> ExportedProgram:
    """Export a model as a program that PyTorch saves, loads and compiles without this package.

    The batch size stays dynamic where it is dynamic in the model.

    Args:
        model: path of an ONNX file, or a model.
        input_shapes: shape by input name, where the model leaves axes other than the batch open.

    Raises:
        ModelError: it cannot be read or converted to PyTorch, or its control flow depends on values of tensors.
    """
    network = open_network(model, choose_provider("cpu"), {})
    is_open = {spec.name: bool(spec.shape) and spec.shape[0] is None for spec in network.inputs}
    zeros = network.with_shapes(input_shapes or {}).zeros()
    module = to_torch(model)
    # Two samples: torch.export specializes a size of 1 as constant.
    examples = {
        name: array.repeat(2, 0) if is_open[name] and len(array) == 1 else array for name, array in zeros.items()
    }
    inputs = tuple(torch.from_numpy(examples[name]) for name in module.inputs)
    batches = tuple({0: Dim.DYNAMIC} if is_open[name] else {} for name in module.inputs)
    try:
        return torch.export.export(module, inputs, dynamic_shapes=(batches,), strict=False)
    except Exception as error:  # torch.export raises many types
        text = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{network.name}: torch.export cannot follow it ({type(error).__name__}: {text}): give all sizes with "
            "`input_shapes`, or simplify the model, with onnxslim for example"
        ) from error


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write a program; the file is complete or not there.

    Raises:
        OutputError: it cannot be written.
    """
    with Publication() as publication:
        file = publication.add(path)
        with explained(path):
            program_file = file.with_name("program.pt2")  # the ending that PyTorch wants
            torch.export.save(program, program_file)
            program_file.replace(file)
