"""What the presets of image preprocessing stand for, as rows of the help."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_lowrank.calibrate.data.preprocess import PRESETS, Preprocessing, preset


def preset_rows() -> list[tuple[str, str]]:
    """Return the name of every preset with its numbers."""
    return [(name, _numbers(preset(name))) for name in PRESETS]


def _numbers(preprocessing: Preprocessing) -> str:
    scale = "1" if preprocessing.scale == 1 else f"1/{1 / preprocessing.scale:g}"
    parts = [f"scale {scale}", f"mean {_joined(preprocessing.means)}", f"std {_joined(preprocessing.stds)}"]
    return ", ".join([*parts, *(["bgr"] if preprocessing.channel_order == "bgr" else [])])


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
