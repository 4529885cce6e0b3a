"""A path -> an ONNX model with all its weights in memory."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from onnx_lowrank.errors import ModelError


def read_model(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Read a model; a model already in memory is copied, never changed.

    Args:
        model: path of an ``.onnx`` file, external data beside it, or a model.

    Returns:
        The model, external weights loaded.

    Raises:
        ModelError: no such file, not an ONNX model, truncated, or external data missing or outside the model's folder.
    """
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    path = Path(model)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise ModelError(f"{path}: {kind}, wanted an ONNX model: check the path")
    try:
        loaded = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX model or truncated ({error}): export or copy it again") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): check its permissions") from error
    if not loaded.graph.node or not loaded.graph.output or not loaded.ir_version:
        raise ModelError(f"{path}: not an ONNX model (no graph in it): export or copy it again")
    _load_external_data(loaded, path)
    return loaded


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Bring weights kept in files of their own into the model; only files in the model's folder are read."""
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = external_data_helper.ExternalDataInfo(tensor).location
        file = folder / location
        if Path(location).is_absolute() or not file.resolve().is_relative_to(folder):
            raise ModelError(
                f"{path}: tensor '{tensor.name}' keeps its data in '{location}', outside the model's folder: "
                "only files beside the model are read; move the file there and correct the path"
            )
        if not file.is_file():
            raise ModelError(
                f"{path}: external data file '{location}' of tensor '{tensor.name}' is missing: put it beside the model"
            )
    try:
        external_data_helper.load_external_data_for_model(model, str(folder))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{path}: external data cannot be read ({error}): copy the model and its data again"
        ) from error
