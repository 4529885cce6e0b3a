"""The weights of a trained module, written back into the graph they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import inline_all_functions, read_model
from onnx_lowrank.graph.tensors import put_inside, values
from onnx_lowrank.torch.module.to_module import OnnxModule
from onnx_lowrank.torch.module.weights import Constant, array_of, constants


def from_torch(module: nn.Module | Mapping[str, Tensor], model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Return the same graph with the weights of a module.

    Args:
        module: result of `to_torch` for ``model``, trained since; also wrapped by ``DistributedDataParallel`` or
            ``torch.compile``, or its ``state_dict()``.
        model: path of an ONNX file, or a model; not changed.

    Returns:
        ``model`` with new weights, in its own floating-point type. Names, opset, metadata, inputs and outputs are the
        same. Unchanged tensors keep their bytes.

    Raises:
        ModelError: the model cannot be read, or the module was not made from it.
    """
    state = module if isinstance(module, Mapping) else _unwrapped(module).state_dict()
    result = read_model(model)
    floats = _floats(result)
    if result.functions and _is_inside(state, floats, inlined := inline_all_functions(result)):
        result, floats = inlined, _floats(inlined)
    keys = OnnxModule.state_keys(floats)
    for name, key in keys.items():
        if key not in state:
            raise ModelError(
                f"from_torch: the module has no '{key}', which the model has: take the model it was made of"
            )
        _write(floats[name], state[key])
    if not result.functions and (odd := state.keys() - keys.values()):
        raise ModelError(
            f"from_torch: the model has no '{min(odd)}', which the module has: take the model it was made of"
        )
    return result


def write_weights(model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> None:
    """Write some weights into a model, in its own floating-point types.

    Args:
        model: changed in place.
        weights: by name; those that the model does not have are left out.

    Raises:
        ModelError: a weight has another shape than the model's, or is too large for its type.
    """
    for name, constant in _floats(model).items():
        if name in weights:
            _write(constant, weights[name])


def _is_inside(state: Mapping[str, Tensor], outside: Mapping[str, Constant], inlined: onnx.ModelProto) -> bool:
    """Whether a tensor was changed that exists only after inlining of functions, as in the module."""
    inside = _floats(inlined)
    keys = OnnxModule.state_keys(inside)
    return any(
        keys[name] in state and array_of(state[keys[name]], old.dtype).tobytes() != old.tobytes()
        for name, old in ((name, values(constant.tensor)) for name, constant in inside.items() if name not in outside)
    )


def _floats(model: onnx.ModelProto) -> dict[str, Constant]:
    return {constant.name: constant for constant in constants(model.graph) if constant.is_float}


def _write(constant: Constant, tensor: Tensor) -> None:
    """Write a tensor into the model, unless its bytes are the same."""
    old = values(constant.tensor)
    new = array_of(tensor, old.dtype)
    if new.shape != old.shape:
        raise ModelError(
            f"from_torch: '{constant.name}' has shape {new.shape} in the module and {old.shape} in the model: take the "
            "model it was made of"
        )
    if bool(torch.isfinite(tensor).all()) and not np.isfinite(new.astype(np.float64)).all():
        raise ModelError(
            f"from_torch: '{constant.name}' has grown to {float(tensor.abs().max()):.3g}, which {old.dtype} does not "
            "hold: train with a lower learning rate"
        )
    content = new.astype(new.dtype.newbyteorder("<"), copy=False).tobytes() if new.dtype.kind == "f" else new.tobytes()
    if content != old.tobytes():
        for field in ("float_data", "double_data", "int32_data"):
            constant.tensor.ClearField(field)
        put_inside(constant.tensor, content)


def _unwrapped(module: nn.Module) -> nn.Module:
    for name in ("module", "_orig_mod"):  # attributes of DistributedDataParallel and of torch.compile
        inner = None if isinstance(module, OnnxModule) else module._modules.get(name)
        if inner is not None:
            return _unwrapped(inner)
    return module
