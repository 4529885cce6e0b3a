"""The written file as a graph: valid, with the same inputs and outputs as the original."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnx_lowrank.errors import VerificationError


def check_structure(original: onnx.ModelProto, written: Path) -> onnx.ModelProto:
    """Read the written file back and compare its interface with the original's.

    Args:
        original: the model that was converted.
        written: the file.

    Returns:
        The model as it stands on the disk.

    Raises:
        VerificationError: not readable, refused by the ONNX checker, or other inputs, outputs, opsets.
    """
    try:
        model = onnx.load(written)
    except Exception as error:  # whatever protobuf and the file system raise
        raise VerificationError(f"written model: cannot be read back: {error}") from error
    if _refused(original) is None and (reason := _refused(model)) is not None:
        raise VerificationError(f"written model: refused by the ONNX checker: {reason}")
    for what in ("input", "output"):
        before, after = (_interface(each, what) for each in (original, model))
        if before != after:
            raise VerificationError(f"written model: {what}s {_shown(after)}, wanted {_shown(before)}")
    if original.ir_version != model.ir_version:
        raise VerificationError(f"written model: IR version {model.ir_version}, wanted {original.ir_version}")
    versions = [sorted((each.domain, each.version) for each in m.opset_import) for m in (original, model)]
    if versions[0] != versions[1]:
        raise VerificationError(f"written model: opsets {versions[1]}, wanted {versions[0]}")
    return model


def _refused(model: onnx.ModelProto) -> str | None:
    """Why the ONNX checker refuses a model; None where it accepts it."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        return str(error)
    return None


def _interface(model: onnx.ModelProto, what: str) -> list[onnx.ValueInfoProto]:
    """Inputs or outputs in order; initializers listed as inputs are not part of the interface."""
    inner = {tensor.name for tensor in model.graph.initializer}
    return [value for value in getattr(model.graph, what) if value.name not in inner]


def _shown(values: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(onnx.helper.printable_value_info(value) for value in values)
