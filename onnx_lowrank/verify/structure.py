"""What was written as a graph: valid, with the same inputs and outputs as the original."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import onnx

from onnx_lowrank.errors import VerificationError
from onnx_lowrank.graph.extract import ancestors, initializer_input
from onnx_lowrank.graph.index import tensors_read
from onnx_lowrank.graph.tensors import is_external, values


def check_structure(original: onnx.ModelProto, written: onnx.ModelProto) -> None:
    """Compare the interface of what was written with the original's.

    Args:
        original: the model that was converted.
        written: what was read back.

    Raises:
        VerificationError: refused by the ONNX checker, or other inputs, outputs, opsets.
    """
    if _refused(original) is None and (reason := _refused(written)) is not None:
        raise VerificationError(f"written model: refused by the ONNX checker: {reason}")
    for what in ("input", "output"):
        before, after = (_interface(each, what) for each in (original, written))
        if before != after:
            raise VerificationError(f"written model: {what}s {_shown(after)}, wanted {_shown(before)}")
    if original.ir_version != written.ir_version:
        raise VerificationError(f"written model: IR version {written.ir_version}, wanted {original.ir_version}")
    versions = [sorted((each.domain, each.version) for each in m.opset_import) for m in (original, written)]
    if versions[0] != versions[1]:
        raise VerificationError(f"written model: opsets {versions[1]}, wanted {versions[0]}")


def check_untouched(original: onnx.ModelProto, written: onnx.ModelProto, replaced: Container[str]) -> None:
    """See that outputs which no replaced node reaches are computed as before: the same nodes, the same weights.

    Args:
        original: the model that was converted.
        written: what was read back.
        replaced: outputs of the nodes that were replaced.

    Raises:
        VerificationError: one of them is not.
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
    same = all(a.name == b.name and np.array_equal(values(a), values(b), equal_nan=True) for a, b in pairs)
    return same and len(before) == len(after)


def _refused(model: onnx.ModelProto) -> str | None:
    """Why the ONNX checker refuses a model; None where it accepts it. Weights outside of it count as inputs."""
    outside = [tensor for tensor in model.graph.initializer if is_external(tensor)]
    try:
        onnx.checker.check_model(_with_inputs(model, outside) if outside else model)
    except (onnx.checker.ValidationError, ValueError) as error:
        return str(error)
    return None


def _with_inputs(model: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> onnx.ModelProto:
    """The model with inputs in the place of some initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    names, known = {tensor.name for tensor in tensors}, {value.name for value in model.graph.input}
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in names)
    changed.graph.input.extend(initializer_input(tensor) for tensor in tensors if tensor.name not in known)
    return changed


def _interface(model: onnx.ModelProto, what: str) -> list[onnx.ValueInfoProto]:
    """Inputs or outputs in order; initializers listed as inputs are not part of the interface."""
    inner = {tensor.name for tensor in model.graph.initializer}
    return [value for value in getattr(model.graph, what) if value.name not in inner]


def _shown(values: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(onnx.helper.printable_value_info(value) for value in values)
