"""The classes of images, from the names of their folders or files, and whether a network scores these classes.

| rule      | where                                   | class of an image                                            |
|-----------|-----------------------------------------|--------------------------------------------------------------|
| `lines`   | names of classes are given              | the line that names its folder, or that its file begins with |
| `numbers` | every class folder is named by a number | that number                                                  |
| `order`   | other class folders                     | position of its folder in the sorted order of all            |

A wrong class is not an error that anybody would see, only a low accuracy. So the numbers of classes have to agree:
1,000 scores are judged by 1,000 class folders, or by names or numbers that say which of them there are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.archives import ImageFiles
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.settings import ClassNames

_MAX_DIGITS = 9  # of a number that may be a class
_NAMES_HINT = "pass `class_names='FILE'` with one class a line, in the order of the scores"


@dataclass(frozen=True)
class LabelRule:
    """How images were given their classes.

    Attributes:
        kind: see the head of this file.
        classes: how many there are by that: lines, one more than the largest number, or folders.
        source: of the images; of the names where the rule is ``lines``.
    """

    kind: Literal["lines", "numbers", "order"]
    classes: int
    source: str

    def check(self, scored: int, output: str) -> None:
        """Raise where a network scores other classes.

        Args:
            scored: number of classes that it scores.
            output: name of the output.

        Raises:
            CalibrationError: the numbers of classes do not agree.
        """
        scores = f"output '{output}' scores {scored} classes"
        if self.kind == "numbers" and self.classes > scored:
            raise CalibrationError(
                f"data {self.source}: class folder {self.classes - 1} found, {scores}, 0 to {scored - 1}: "
                f"number folders from 0, or {_NAMES_HINT}"
            )
        if self.kind == "lines" and self.classes != scored:
            raise CalibrationError(
                f"{self.source}: {self.classes} lines found, {scores}: "
                "give one line for each, in the order of the scores"
            )
        if self.kind == "order" and self.classes != scored:
            raise CalibrationError(
                f"data {self.source}: {self.classes} class folders found, {scores}: {_NAMES_HINT}, "
                f"or name each folder by the number of its class, 0 to {scored - 1}"
            )


def image_labels(
    files: ImageFiles, names: ClassNames | None = None
) -> tuple[NDArray[np.int64], LabelRule] | tuple[None, None]:
    """Return the class of each image, and how it was found.

    Args:
        files: the images.
        names: of all classes, in the order of the scores; None to go by class folders alone.

    Returns:
        Classes, shape (images,); None twice without names, unless every image lies in a class folder.

    Raises:
        CalibrationError: the names cannot be read, or say nothing of an image.
    """
    folders = files.class_folders()
    if names is not None:
        lines = _Lines.of(names)
        classes = lines.of_images(files, None if folders is None else folders[0])
        return np.array(classes, np.int64), LabelRule("lines", lines.count, lines.source)
    if folders is None:
        return None, None
    of_images, every = folders
    source = f"{files.source} ({len(files.names)} images)"
    if all(folder.isascii() and folder.isdigit() and len(folder) <= _MAX_DIGITS for folder in every):
        numbers = np.array([int(folder) for folder in of_images], np.int64)
        return numbers, LabelRule("numbers", int(numbers.max()) + 1, source)
    position = {folder: index for index, folder in enumerate(every)}
    return np.array([position[folder] for folder in of_images], np.int64), LabelRule("order", len(every), source)


class _Lines:
    """Names of classes, one a line; upper and lower case and underscores make no difference.

    Where the first words of all lines differ, as in ``n01440764 tench, Tinca tinca``, they are names too.
    """

    def __init__(self, source: str, lines: Sequence[str]) -> None:
        self.source, self.count = source, len(lines)
        self._lines = lines
        plain = [_plain(line) for line in lines]
        first = [_words(line)[0] for line in lines]
        self._index: dict[str, list[int]] = {}
        for keys in (plain, first if len(set(first)) == len(first) else ()):
            for number, key in enumerate(keys):
                if number not in self._index.setdefault(key, []):
                    self._index[key].append(number)

    @staticmethod
    def of(names: ClassNames) -> _Lines:
        """Read the names of classes.

        Raises:
            CalibrationError: the file cannot be read, or a line is empty.
        """
        if isinstance(names, str | os.PathLike):
            source = f"`class_names` {os.fspath(names)}"
            try:
                lines = Path(names).read_text(encoding="utf-8-sig").rstrip().splitlines()
            except OSError as error:
                raise CalibrationError(f"{source}: cannot be read ({error.strerror}): check the path") from error
            except UnicodeDecodeError as error:
                raise CalibrationError(f"{source}: not a text file: write one class a line") from error
        else:
            source, lines = "`class_names`", list(names)
        empty = next((number for number, line in enumerate(lines, 1) if not _words(line)), None)
        if not lines or empty is not None:
            found = "nothing in it" if not lines else f"line {empty} is empty"
            raise CalibrationError(f"{source}: {found}, one class a line is wanted: name every class that is scored")
        return _Lines(source, lines)

    def of_images(self, files: ImageFiles, folders: Sequence[str] | None) -> list[int]:
        """Return the classes of images: by their folders where these all have one, else by the names of their files.

        Args:
            files: the images.
            folders: class folder of each; None where there are none.

        Raises:
            CalibrationError: an image has no class, or more than one.
        """
        by_folder = [self._index.get(_plain(folder), []) for folder in folders or ()]
        if folders is not None and all(len(found) == 1 for found in by_folder):
            return [number for (number,) in by_folder]
        by_file = [self._beginning(name.rpartition("/")[2]) for name in files.names]
        if all(len(found) == 1 for found in by_file):
            return [number for (number,) in by_file]
        if folders is not None:
            wrong = next(number for number, found in enumerate(by_folder) if len(found) != 1)
            raise self._no_class(f"class folder '{folders[wrong]}' of {files.source} is", by_folder[wrong])
        unknown = [number for number, found in enumerate(by_file) if len(found) != 1]
        what = (
            f"{len(unknown)} of {len(files.names)} images of {files.source} have no class, '{files.names[unknown[0]]}'"
        )
        raise self._no_class(f"{what} begins with what is", by_file[unknown[0]])

    def _beginning(self, file: str) -> list[int]:
        """Return the lines that a file's name begins with, the longest of them, up to a sign between words."""
        stem = _plain(file.rpartition(".")[0])
        ends = [end for end in range(len(stem), 0, -1) if end == len(stem) or not stem[end].isalnum()]
        return next((self._index[stem[:end]] for end in ends if stem[:end] in self._index), [])

    def _no_class(self, what: str, found: Sequence[int]) -> CalibrationError:
        if found:
            where = f"on lines {' and '.join(str(number + 1) for number in found)}"
        else:
            where = f"on none of {self.count} lines ({', '.join(repr(line) for line in self._lines[:2])}, ...)"
        return CalibrationError(f"{self.source}: {what} {where}, one is wanted: correct the file or the name")


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _words(line: str) -> list[str]:
    return _plain(line).replace(",", " ").split()
