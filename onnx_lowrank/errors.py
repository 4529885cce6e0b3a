"""What can go wrong, as exceptions.

::

    LowRankError                 the user can fix it: bad file, bad data, impossible target
    ├── ModelError               the ONNX file: missing, broken, nothing in it to convert
    ├── CalibrationError         the sample inputs: missing, unreadable, wrong shape, NaN
    ├── BudgetError              the target: a speedup that no choice of ranks reaches
    ├── RankError                a rank or plan that does not fit its layer
    ├── OutputError              the place to write to: exists, missing folder, disk full
    ├── VerificationError        the written model is not good enough (exit code 3)
    └── MissingDependencyError   an optional package or execution provider is not installed

A message says where, what was found, what was wanted and what to do:
``Conv 'features.3': rank must be 1..64 (64 filters), got 80: lower it in the plan``.

Messages, logged ones included, name settings and functions as Python does, in backticks and maybe with a value::

    lower `speedup`    use `provider='cpu'`    see their names with `inspect`

The command line shows its flags in their place, ``--speedup`` and ``--provider cpu``: see ``cli/messages.py``.

Wrong arguments from Python code stay ``ValueError`` and ``TypeError``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class LowRankError(Exception):
    """Base of every error the user can fix."""


class ModelError(LowRankError):
    """The ONNX model cannot be read, run or converted."""


class CalibrationError(LowRankError):
    """The sample inputs cannot be used."""


class BudgetError(LowRankError):
    """No choice of ranks meets the target."""


class RankError(LowRankError):
    """A rank or a rank plan does not fit the layers of the model."""


class OutputError(LowRankError):
    """The result cannot be written where it was asked to go."""


class VerificationError(LowRankError):
    """The written model failed its checks; no file is left behind."""


class MissingDependencyError(LowRankError):
    """An optional package or an execution provider is missing."""


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


def check_name(path: Path) -> None:
    """Raise OSError for a name that is too long for its file system.

    From Python 3.14 on, ``Path.exists`` and its like say of such a name that there is no file of it.
    """
    try:
        path.stat()
    except ValueError:
        pass  # a character that no name has, of which the others raise nothing either
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
