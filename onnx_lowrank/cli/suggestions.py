"""What was meant by a word that is none of those that are known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return a question to append to an error message; empty where nothing is like the word.

    Args:
        word: what was given.
        words: what is known.

    >>> did_you_mean("imagnet", ["imagenet", "raw"])
    ": did you mean 'imagenet'?"
    """
    alike = get_close_matches(word.lower(), words, n=1)
    return f": did you mean '{alike[0]}'?" if alike else ""
