"""A warning about a converted network, as reports carry it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportWarning:
    """What nobody should overlook in a result.

    Attributes:
        code: the kind of warning, for scripts: ``not-close``, ``missed-target``, ``slow`` or ``runtime``.
        text: a sentence for people: what was found, what is wrong with it, what to do.
    """

    code: str
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def to_dict(self) -> dict[str, str]:
        """Return the entry of ``warnings`` in the JSON report."""
        return {"code": self.code, "text": self.text}
