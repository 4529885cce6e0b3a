"""Checks of a written graph: it is valid, and has the interface of the original."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import onnx

from onnx_lowrank.errors import VerificationError
from onnx_lowrank.graph.extract import ancestors, initializer_input
from onnx_lowrank.graph.index import tensors_read
from onnx_lowrank.graph.tensors import is_external, values


def check_structure(original: onnx.ModelProto, written: onnx.ModelProto) -> None:
    """Check that a written model is valid and has the interface of the original.

    Args:
        original: the model that was converted.
        written: the converted model, read back from its file.

    Raises:
        VerificationError: the ONNX checker refuses the model, unless it refuses the original too; or inputs, outputs,
            IR version or opsets differ.
    """
    if _refused(original) is None and (reason := _refused(written)) is not None:
        raise VerificationError(f"written model: refused by the ONNX checker: {reason}")
    for field in ("input", "output"):
        before, after = (_interface(model, field) for model in (original, written))
        if before != after:
            raise VerificationError(f"written model: {field}s {_shown(after)}, wanted {_shown(before)}")
    if original.ir_version != written.ir_version:
        raise VerificationError(f"written model: IR version {written.ir_version}, wanted {original.ir_version}")
    versions = [sorted((opset.domain, opset.version) for opset in m.opset_import) for m in (original, written)]
    if versions[0] != versions[1]:
        raise VerificationError(f"written model: opsets {versions[1]}, wanted {versions[0]}")


def check_untouched(original: onnx.ModelProto, written: onnx.ModelProto, replaced: Container[str]) -> None:
    """Check that outputs that depend on no replaced node are computed by the same nodes with the same weights.

    Args:
        original: the model that was converted.
        written: the converted model, read back from its file.
        replaced: outputs of the nodes that were replaced.

    Raises:
        VerificationError: such an output is computed in another way.
    """
    for output in original.graph.output:
        before = ancestors(original, [output.name], ())
        if any(name in replaced for node in before for name in node.output):
            continue
        read = {name for node in before for name in tensors_read(node)}
        weights = ([tensor for tensor in m.graph.initializer if tensor.name in read] for m in (original, written))
        if before != ancestors(written, [output.name], ()) or not _same_values(*weights):
            raise VerificationError(
                f"written model: output '{output.name}' depends on no converted layer and is computed in another way: "
                "please report this"
            )


def _same_values(before: Sequence[onnx.TensorProto], after: Sequence[onnx.TensorProto]) -> bool:
    pairs = list(zip(before, after, strict=False))
    return len(before) == len(after) and all(a.name == b.name and _same_value(a, b) for a, b in pairs)


def _same_value(before: onnx.TensorProto, after: onnx.TensorProto) -> bool:
    first, second = values(before), values(after)
    return np.array_equal(first, second, equal_nan=first.dtype != object)  # text has no NaN to look for


def _refused(model: onnx.ModelProto) -> str | None:
    """Return why the ONNX checker refuses a model, or None; external weights are checked as if they were inputs."""
    external = [tensor for tensor in model.graph.initializer if is_external(tensor)]
    try:
        onnx.checker.check_model(_with_inputs(model, external) if external else model)
    except (onnx.checker.ValidationError, ValueError) as error:
        return str(error)
    return None


def _with_inputs(model: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> onnx.ModelProto:
    """Return a copy of a model with inputs in place of some initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    names, inputs = {tensor.name for tensor in tensors}, {value.name for value in model.graph.input}
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in names)
    changed.graph.input.extend(initializer_input(tensor) for tensor in tensors if tensor.name not in inputs)
    return changed


def _interface(model: onnx.ModelProto, field: str) -> list[onnx.ValueInfoProto]:
    """Return the inputs or outputs in order, without initializers that are listed as inputs."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in getattr(model.graph, field) if value.name not in initializers]


def _shown(values: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(onnx.helper.printable_value_info(value) for value in values)
