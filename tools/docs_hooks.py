"""A hook for mkdocs: equations become MathML, which browsers render without scripts."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"\$([^$\n]+?)\$")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``$$...$$`` and ``$...$`` outside of code."""
    parts = _CODE.split(markdown)
    parts[::2] = [_equations(part) for part in parts[::2]]
    return "".join(parts)


def _equations(text: str) -> str:
    text = _BLOCK.sub(lambda match: convert(match[1].strip(), display="block"), text)
    return _INLINE.sub(lambda match: f"<span>{convert(match[1].strip())}</span>", text)
