"""Inline functions that a model defines itself: layers cannot be replaced inside them, nor activations be seen."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import inliner

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.find_layers import LAYER_OPERATORS
from onnx_lowrank.graph.index import STANDARD_DOMAINS, inner_nodes

_LINEAR = frozenset({"Add", "Sub", "Sum", "Mul", "Div", "Constant", "Identity", "Dropout", "BatchNormalization"})
_CURVED = frozenset(  # what activations consist of, beside these
    {
        *("Relu", "LeakyRelu", "PRelu", "Clip", "HardSigmoid", "Sigmoid", "Tanh", "HardSwish", "Swish", "Softplus"),
        *("Gelu", "Erf", "Pow", "Exp", "Log"),
    }
)


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with some of its functions inlined; all others stay.

    Those that contain a layer's operator, and those behind a layer that may be its activation.

    Args:
        model: not changed.

    Raises:
        ModelError: a function is of another opset than the model, in which its operators are others.
    """
    with_layers: set[tuple[str, str]] = set()
    # Until a pass finds no further ones: a function may call another that has layers.
    while more := {_key(each) for each in model.functions if _has_layers(each, with_layers)} - with_layers:
        with_layers |= more
    model = _inlined(model, with_layers) if with_layers else model
    while behind := _behind_layers(model):  # again for those that these call
        model = _inlined(model, behind)
    return model


def inline_all_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with all of its functions inlined.

    Args:
        model: not changed.

    Raises:
        ModelError: a function is of another opset than the model, in which its operators are others.
    """
    return _inlined(model, {_key(each) for each in model.functions}) if model.functions else model


def _inlined(model: onnx.ModelProto, functions: Collection[tuple[str, str]]) -> onnx.ModelProto:
    return inliner.inline_selected_functions(_with_versions_of_the_model(model), sorted(functions))


def _with_versions_of_the_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose functions import every domain in the version that the model imports.

    onnx inlines no other ones, though the version of a domain whose functions are in the file says nothing (jax2onnx
    counts it in two ways), and most operators are the same in many versions of the standard.
    """
    wanted = {each.domain: each.version for each in model.opset_import}
    imports = [(function, each) for function in model.functions for each in function.opset_import]
    if all(each.version == wanted.get(each.domain, each.version) for _, each in imports):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for function in changed.functions:
        for each in function.opset_import:
            version = wanted.get(each.domain, each.version)
            if each.domain in STANDARD_DOMAINS and not _means_the_same(function, each.version, version):
                raise ModelError(
                    f"function '{function.domain}.{function.name}': it is of opset {each.version}, some of its "
                    f"operators are others in the model's opset {version}: export the model with one opset"
                )
            each.version = version
    return changed


def _means_the_same(function: onnx.FunctionProto, version: int, other: int) -> bool:
    """Return whether all operators of a function are the same in two versions of the standard."""
    nodes = [each for node in function.node for each in (node, *inner_nodes(node)) if each.domain in STANDARD_DOMAINS]
    try:
        return all(_since(node, version) == _since(node, other) for node in nodes)
    except onnx.defs.SchemaError:  # onnx does not know it: neither does the runtime, which says so
        return True


def _since(node: onnx.NodeProto, version: int) -> int:
    return int(onnx.defs.get_schema(node.op_type, version).since_version)


def _behind_layers(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Return the functions that may be the activation of a layer: called behind one, and made of such operators."""
    activations = _activations(model)
    responses, called = set(), set()
    for node in model.graph.node if activations else ():
        if node.op_type in LAYER_OPERATORS:
            responses.add(node.output[0])
        elif not responses.isdisjoint(node.input):
            if (node.domain, node.op_type) in activations:
                called.add((node.domain, node.op_type))
            elif node.op_type in _LINEAR:
                responses.add(node.output[0])
    return called


def _activations(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Return the functions that consist of operators of activations, or of calls of such functions."""
    found: set[tuple[str, str]] = set()
    while more := {_key(each) for each in model.functions if _is_activation(each, found)} - found:
        found |= more
    return found


def _is_activation(function: onnx.FunctionProto, activations: Collection[tuple[str, str]]) -> bool:
    kinds = [(node.domain, node.op_type) for node in function.node]
    curved = [kind in activations or (kind[0] in STANDARD_DOMAINS and kind[1] in _CURVED) for kind in kinds]
    return any(curved) and all(
        is_curved or (kind[0] in STANDARD_DOMAINS and kind[1] in _LINEAR)
        for kind, is_curved in zip(kinds, curved, strict=True)
    )


def _key(function: onnx.FunctionProto) -> tuple[str, str]:
    return function.domain, function.name


def _has_layers(function: onnx.FunctionProto, with_layers: set[tuple[str, str]]) -> bool:
    """Return whether a function has layers, or calls one of those that have."""
    nodes = [each for node in function.node for each in (node, *inner_nodes(node))]
    return any(node.op_type in LAYER_OPERATORS or (node.domain, node.op_type) in with_layers for node in nodes)
