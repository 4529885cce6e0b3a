"""`cer`: how much of a text is read right, against tables of texts or against what the original reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError, MissingDependencyError
from onnx_lowrank.metrics.ctc import best_classes, read_greedily, usual_blank
from onnx_lowrank.metrics.labels.places import find_file
from onnx_lowrank.metrics.labels.text_file import read_characters, read_texts
from onnx_lowrank.metrics.options import count, read_options
from onnx_lowrank.metrics.protocol import Batch, MetricSamples, Predictor, PreparedMetric, Resampled, Text

log = logging.getLogger(__name__)

_FILES = ("texts.tsv", "texts.csv")


@dataclass(frozen=True)
class Reader:
    """How a network's output is read.

    Attributes:
        output: its name.
        classes: how many there are, with the blank.
        blank: class that stands for none.
        characters: of the classes without the blank; None to read classes.
    """

    output: str
    classes: int
    blank: int
    characters: tuple[str, ...] | None

    def read(self, outputs: Mapping[str, NDArray[Any]], batch: Batch) -> list[Text]:
        """Return what a network reads in each sample of a batch."""
        samples = len(next(iter(batch.values())))
        steps = best_classes(outputs[self.output], samples)
        if steps is None:
            raise CalibrationError(f"metric cer: output '{self.output}': no scores of steps for {samples} samples")
        return [self._text(read_greedily(each, self.blank)) for each in steps]

    def _text(self, classes: list[int]) -> Text:
        if self.characters is None:
            return tuple(classes)
        return "".join(self.characters[each - int(each > self.blank)] for each in classes)


@dataclass(frozen=True)
class CharacterAccuracy:
    """One minus the character error rate: edits between what is read and the text, by the text's length.

    Attributes:
        labels: table of names and texts; None for ``texts.tsv`` or ``texts.csv`` in the folder of images, if there.
        characters: file of the characters that the network reads, one a line; None to compare classes.
        blank: class that stands for none; None for the first or the last, whichever is found more often.
    """

    labels: Path | None = None
    characters: Path | None = None
    blank: int | None = None
    name: str = "1 - cer"

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:
        """Read the table of texts, or what the original reads.

        Raises:
            CalibrationError: no output holds steps of classes, or the texts are missing or empty.
            MissingDependencyError: rapidfuzz is not installed.
        """
        reader = self.recognize(original, samples)
        file = find_file(samples.source, _FILES, self.labels)
        if file is not None and reader.characters is None:
            raise CalibrationError(
                f"metric cer: {file} holds texts, the network gives numbers of characters: pass the file of its "
                "characters, `cer:characters=FILE`"
            )
        if file is None:
            truth = [text for batch in samples for text in reader.read(original(batch), batch)]
            what = "what the original reads"
        else:
            truth, what = list(read_texts(file, samples.names)), str(file)
        if not any(truth):
            raise CalibrationError(
                f"metric cer: no text in {len(samples)} samples by {what}: pass images with text, or check `blank`"
            )

        def score(predictor: Predictor, samples: MetricSamples) -> Resampled:
            found = [text for batch in samples for text in reader.read(predictor(batch), batch)]
            return _accuracy(truth, found)

        return PreparedMetric(score, what, lambda outputs, batch: list(reader.read(outputs, batch)))

    def recognize(self, original: Predictor, samples: MetricSamples) -> Reader:
        """Return the first output that holds steps of classes.

        Raises:
            CalibrationError: there is none, or the characters do not fit it.
        """
        batch = next(iter(samples))
        outputs = original(batch)
        for name in original.outputs:
            values = outputs[name]
            steps = best_classes(values, len(next(iter(batch.values())))) if isinstance(values, np.ndarray) else None
            if steps is None:
                continue
            classes = values.shape[2] if values.ndim == 3 else int(steps.max()) + 1
            characters = None
            if self.characters is not None:
                characters = _characters(self.characters, classes if values.ndim == 3 else None, name)
                classes = len(characters) + 1
            blank = usual_blank(steps, classes) if self.blank is None else self.blank
            log.info("metric cer: output '%s', %d classes, blank is %d", name, classes, blank)
            return Reader(name, classes, blank, characters)
        shapes = ", ".join(f"'{name}' {np.shape(values)}" for name, values in outputs.items())
        raise CalibrationError(
            f"metric cer: the outputs {shapes} hold no steps of classes, (samples, steps, classes) is wanted: choose "
            "another metric"
        )


def build(options: str = "") -> CharacterAccuracy:
    """Return the metric ``cer``.

    Args:
        options: ``labels``, ``characters``, ``blank``; see `CharacterAccuracy`.

    Raises:
        CalibrationError: an option is wrong.
    """
    return CharacterAccuracy(**read_options("cer", options, {"labels": Path, "characters": Path, "blank": count}))


def _characters(file: Path, classes: int | None, output: str) -> tuple[str, ...]:
    """Return the characters of all classes but the blank; one more that is scored is a space, as in PaddleOCR."""
    listed = read_characters(file)
    if classes == len(listed) + 2:
        listed.append(" ")
    if classes is not None and classes != len(listed) + 1:
        raise CalibrationError(
            f"{file}: {len(listed)} lines found, output '{output}' scores {classes} classes with the blank, so that "
            f"{classes - 1} or, without the space, {classes - 2} lines are wanted: pass the network's own list"
        )
    return tuple(listed)


def _accuracy(truth: Sequence[Text], found: Sequence[Text]) -> Resampled:
    try:
        from rapidfuzz.distance import Levenshtein  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingDependencyError(
            f"metric cer: needs rapidfuzz ({error}): pip install 'onnx-lowrank[metrics]'"
        ) from error
    edits = np.array([Levenshtein.distance(*pair) for pair in zip(truth, found, strict=True)])
    lengths = np.array([len(text) for text in truth])

    def score_of(chosen: NDArray[np.int64]) -> float:
        length = int(lengths[chosen].sum())
        return 1 - float(edits[chosen].sum()) / length if length else 0.0

    return Resampled(len(truth), score_of)
