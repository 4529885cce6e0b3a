"""Non-maximum suppression by onnxruntime's operator, for detectors that leave it to the program around them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session


def suppress(
    corners: NDArray[Any], scores: NDArray[Any], overlap: float, least_score: float, most: int
) -> NDArray[np.int64]:
    """Return which boxes remain when those that overlap a better one of their class are left out.

    Args:
        corners: left, top, right, bottom, shape (images, boxes, 4).
        scores: shape (images, classes, boxes).
        overlap: intersection over union above which the worse of two boxes is left out.
        least_score: boxes of a score that is not larger are left out.
        most: boxes to keep of each class of an image, at most.

    Returns:
        Image, class and box of each that remains, shape (n, 3).
    """
    feeds: dict[str, NDArray[Any]] = {
        "boxes": corners.astype(np.float32),
        "scores": scores.astype(np.float32),
        "most": np.array([most], np.int64),
        "overlap": np.array([overlap], np.float32),
        "least_score": np.array([least_score], np.float32),
    }
    return np.asarray(_session().run(feeds)["kept"], np.int64)


@cache
def _session() -> Session:
    """Open a model of the one operator."""
    value, kind = onnx.helper.make_tensor_value_info, TensorProto
    inputs = [
        value("boxes", kind.FLOAT, ["images", "boxes", 4]),
        value("scores", kind.FLOAT, ["images", "classes", "boxes"]),
        value("most", kind.INT64, [1]),
        value("overlap", kind.FLOAT, [1]),
        value("least_score", kind.FLOAT, [1]),
    ]
    node = onnx.helper.make_node("NonMaxSuppression", [each.name for each in inputs], ["kept"])
    graph = onnx.helper.make_graph([node], "suppression", inputs, [value("kept", kind.INT64, ["kept", 3])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    return Session(model, Provider(), name="non-maximum suppression")
