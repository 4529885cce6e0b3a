"""What a plugin provider leaves to onnxruntime's own CPU provider, which nobody is told of otherwise."""

from __future__ import annotations

import logging
from collections import Counter

from onnx_lowrank.runtime.plugin import Plugin
from onnx_lowrank.runtime.session import Session

log = logging.getLogger(__name__)

_CPU = "CPUExecutionProvider"
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"})
_MAX_TYPES_NAMED = 5


def warn_of_fallback(session: Session, plugin: Plugin, name: str) -> None:
    """Log a warning where operators of a network do not run on the plugin that was asked for.

    Args:
        session: the network in that plugin.
        plugin: what was asked for.
        name: what to call the network.
    """
    if text := fallback_text(session.operators, plugin.ep_name):
        log.warning("%s: %s", name, text)


def fallback_text(operators: dict[str, Counter[str]], ep_name: str) -> str:
    """Say what runs on the CPU provider instead; empty where nothing does.

    Args:
        operators: how many of each type run on which provider, by onnxruntime's name of it.
        ep_name: the provider that was asked for.

    >>> fallback_text({"ggml": Counter(Conv=9, Relu=9), "CPUExecutionProvider": Counter(MaxPool=2)}, "ggml")
    "2 of 20 operators do not run on ggml but on onnxruntime's CPU provider (2 MaxPool): times include them"
    """
    every = sum(operators.values(), Counter())
    elsewhere = operators.get(_CPU, Counter())
    if not elsewhere:
        return ""
    named = [f"{count} {kind}" for kind, count in elsewhere.most_common(_MAX_TYPES_NAMED)]
    types = ", ".join([*named, *(["..."] if len(elsewhere) > _MAX_TYPES_NAMED else [])])
    if elsewhere == every:
        return (
            f"none of {every.total()} operators runs on {ep_name}, all run on onnxruntime's CPU provider ({types}): "
            "times are those of the CPU provider; the library may log why"
        )
    products = sum(elsewhere[kind] for kind in _PRODUCTS)
    weighty = f", {products} convolutions or matrix products among them" if products else ""
    return (
        f"{elsewhere.total()} of {every.total()} operators do not run on {ep_name} but on onnxruntime's CPU provider "
        f"({types}){weighty}: times include them"
    )
