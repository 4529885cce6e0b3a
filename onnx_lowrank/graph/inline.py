"""Inline the functions that a model defines itself where they contain layers, which cannot be replaced inside them."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import inliner

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.find_layers import LAYER_OPERATORS
from onnx_lowrank.graph.index import STANDARD_DOMAINS, inner_nodes


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with those of its functions inlined that contain a layer's operator; all others stay.

    Args:
        model: not changed.

    Raises:
        ModelError: a function is of another opset than the model, in which its operators are others.
    """
    with_layers: set[tuple[str, str]] = set()
    # Until a pass finds no further ones: a function may call another that has layers.
    while more := {_key(each) for each in model.functions if _has_layers(each, with_layers)} - with_layers:
        with_layers |= more
    return _inlined(model, with_layers) if with_layers else model


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


def _key(function: onnx.FunctionProto) -> tuple[str, str]:
    return function.domain, function.name


def _has_layers(function: onnx.FunctionProto, with_layers: set[tuple[str, str]]) -> bool:
    """Return whether a function has layers, or calls one of those that have."""
    nodes = [each for node in function.node for each in (node, *inner_nodes(node))]
    return any(node.op_type in LAYER_OPERATORS or (node.domain, node.op_type) in with_layers for node in nodes)
