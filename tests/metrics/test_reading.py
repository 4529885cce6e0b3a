"""Character error rates: what a CTC network reads, against a table of texts or against the original."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.protocol import Resampled
from onnx_lowrank.metrics.reading import build
from tests.metrics.predictors import Function, samples, score

pytest.importorskip("rapidfuzz")

Array = NDArray[Any]
LETTERS = "abcdefgh"


def reader(texts: Sequence[str], blank: int = 0, steps_first: bool = False, named: bool = False) -> Function:
    """A network that reads a text in the image of its number: every letter twice, blanks between."""
    classes = len(LETTERS) + 1
    steps = np.full((len(texts), 24), blank)
    for row, text in zip(steps, texts, strict=True):
        for place, letter in enumerate(text):
            label = LETTERS.index(letter)
            row[3 * place : 3 * place + 2] = label + int(label >= blank)
    scores = np.eye(classes, dtype=np.float32)[steps]

    def read(images: Array) -> Mapping[str, Array]:
        chosen = images[:, 0, 0, 0].astype(int)
        if named:
            return {"out": steps[chosen]}
        return {"out": scores[chosen].transpose(1, 0, 2) if steps_first else scores[chosen]}

    return Function(read, ("out",))


def lines(count: int, **placed: Any) -> Any:
    images = np.zeros((count, 1, 8, 32), np.float32) + np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    return samples(images, **placed)


TEXTS = ["abba", "cafe", "head"]
WORSE = ["abba", "cae", "heada"]  # one letter less, one more: 2 edits of 12 letters


@pytest.mark.parametrize(
    "form", [{}, {"blank": 8}, {"steps_first": True}, {"named": True}], ids=["first", "last", "steps first", "classes"]
)
def test_the_originals_reading_is_the_truth_without_texts(form: Mapping[str, Any]) -> None:
    data = lines(3)
    original = reader(TEXTS, **form)
    prepared = build("").prepare(original, data)
    assert prepared.truth == "what the original reads"
    assert score(prepared, original, data) == 1
    assert score(prepared, reader(WORSE, **form), data) == pytest.approx(1 - 2 / 12)


def test_errors_are_counted_over_all_drawn_samples() -> None:
    data = lines(3)
    found = build("").prepare(reader(["a", "cafe", "head"]), data).score(reader(["b", "cafe", "head"]), data)
    assert isinstance(found, Resampled)
    assert found.score_of(np.array([0, 1, 1])) == pytest.approx(1 - 1 / 9)


def written(folder: Path, table: str = "0.png\tabba\nlines/1.png\tcafe\n2.png\tbead\n", name: str = "texts.tsv") -> Any:
    (folder / name).write_text(table)
    return lines(3, names=["0.png", "1.png", "2.png"], source=folder)


def characters(folder: Path, letters: str = LETTERS) -> Path:
    file = folder / "characters.txt"
    file.write_text("\n".join(letters) + "\n")
    return file


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_a_table_of_texts(tmp_path: Path, suffix: str) -> None:
    sign = "\t" if suffix == "tsv" else ","
    data = written(tmp_path, f"0.png{sign}abba\n\nlines/1.png{sign}cafe\n2.png{sign}bead\n", f"texts.{suffix}")
    prepared = build(f"characters={characters(tmp_path)}").prepare(reader(TEXTS), data)
    assert prepared.truth == str(tmp_path / f"texts.{suffix}")
    assert score(prepared, reader(TEXTS), data) == pytest.approx(1 - 1 / 12)
    assert score(prepared, reader(["abba", "cafe", "bead"]), data) == 1


def test_one_class_more_than_characters_is_a_space(tmp_path: Path) -> None:
    data = written(tmp_path, "0.png\tab ba\n1.png\tcafe\n2.png\tbead\n")
    with_space = f"characters={characters(tmp_path, LETTERS[:7])}"
    found = reader(["abhba", "cafe", "bead"])  # the last class, h, is the space
    assert score(build(with_space).prepare(found, data), found, data) == 1


def test_texts_without_characters_are_refused(tmp_path: Path) -> None:
    message = (
        f"metric cer: {tmp_path / 'texts.tsv'} holds texts, the network gives numbers of characters: pass the file of "
        "its characters, `cer:characters=FILE`"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(reader(TEXTS), written(tmp_path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "0.png\tabba\nno tab here\n",
            "{file}: line 2: 1 columns found, a name, a tab and a text are wanted: correct it",
        ),
        (
            "0.png\tabba\n0.png\tcafe\n",
            "{file}: line 2: '0.png' has another text above: leave one of them",
        ),
        (
            "0.png\tabba\n1.png\tcafe\n",
            "{file}: no entry for 1 of 3 images, '2.png' for one; it names '0.png', '1.png': add the entries, or leave "
            "out the images",
        ),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, table: str, message: str) -> None:
    file = tmp_path / "texts.tsv"
    with pytest.raises(CalibrationError, match=f"^{re.escape(message.format(file=file))}$"):
        build(f"characters={characters(tmp_path)}").prepare(reader(TEXTS), written(tmp_path, table))


def test_other_characters_than_are_scored(tmp_path: Path) -> None:
    file = characters(tmp_path, "abc")
    message = (
        f"{file}: 3 lines found, output 'out' scores 9 classes with the blank, so that 8 or, without the space, 7 "
        "lines are wanted: pass the network's own list"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build(f"characters={file}").prepare(reader(TEXTS), lines(3))


def test_nothing_that_is_read() -> None:
    message = "metric cer: no text in 2 samples by what the original reads: pass images with text, or check `blank`"
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(reader(["", ""]), lines(2))


def test_outputs_without_steps() -> None:
    network = Function(lambda images: {"scores": np.zeros((len(images), 10), np.float32)}, ("scores",))
    message = (
        "metric cer: the outputs 'scores' (2, 10) hold no steps of classes, (samples, steps, classes) is wanted: "
        "choose another metric"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(network, lines(3))
