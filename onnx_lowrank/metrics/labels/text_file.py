"""Texts of images, from a table of names and texts; and the characters that a network reads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.labels.places import entries_by_name


def read_texts(path: Path, images: Sequence[str | None]) -> list[str]:
    """Return the text of each image.

    Args:
        path: of a table, a name and a text in each line; with a tab between them, in ``.csv`` a comma.
        images: path of each image inside its folder.

    Raises:
        CalibrationError: the file cannot be read, a line is wrong, or an image has none.
    """
    comma = path.suffix.lower() == ".csv"
    entries: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        cells = next(csv.reader([line])) if comma else line.split("\t")
        if len(cells) != 2:
            sign = "comma" if comma else "tab"
            raise CalibrationError(
                f"{path}: line {number}: {len(cells)} columns found, a name, a {sign} and a text are wanted: correct it"
            )
        name = cells[0].strip().replace("\\", "/").removeprefix("./")
        if entries.setdefault(name, cells[1]) != cells[1]:
            raise CalibrationError(f"{path}: line {number}: '{name}' has another text above: leave one of them")
    return entries_by_name(entries, images, path)


def read_characters(path: Path) -> list[str]:
    """Return the characters that a network reads, one a line, in the order of its classes without the blank.

    Raises:
        CalibrationError: the file cannot be read.
    """
    return _lines(path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: not a text file in UTF-8: save it as one") from error
