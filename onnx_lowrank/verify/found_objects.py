"""The objects that two detectors find in the same images: what outputs of boxes and scores are judged by.

Most numbers in a detector's outputs are places of boxes that nobody looks at, since their scores are low. They are
large beside the scores, which say what is found: a relative error hides what happens to these.
"""

from __future__ import annotations

from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.detections.layouts import Layout, Outputs
from onnx_lowrank.metrics.protocol import Batch
from onnx_lowrank.metrics.readings import box_reader, recognized_layout, same_boxes
from onnx_lowrank.verify.output_kinds import KindFidelity

_EXPECTED, _LEAST = 0.9, 0.5


class FoundObjects:
    """Counts the objects of both networks, if the original's outputs on the first batch are those of a detector."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._has_looked = False
        self._same = self._all = 0

    def add(self, ours: Outputs, theirs: Outputs, batch: Batch) -> None:
        """Add a batch.

        Args:
            ours: outputs of the original, those that have the same shape in both.
            theirs: of the other network.
            batch: the inputs.
        """
        if not self._has_looked:
            self._layout, self._has_looked = recognized_layout(ours, batch), True
        if self._layout is None or not set(self._layout.outputs) <= ours.keys():
            self._layout = None
            return
        read = box_reader(self._layout)
        for first, second in zip(read(ours, batch), read(theirs, batch), strict=True):
            assert isinstance(first, Boxes)
            assert isinstance(second, Boxes)
            self._same += 2 * int(same_boxes(first, second)[0].sum())
            self._all += len(first) + len(second)

    def fidelities(self) -> dict[str, KindFidelity]:
        """Return the share of the objects that the other network finds too, for each output that they are read from.

        Nothing where it is no detector, or finds nothing.
        """
        if self._layout is None or not self._all:
            return {}
        value = self._same / self._all
        found = KindFidelity("detections", "objects that both find", value, _EXPECTED, _LEAST)
        return dict.fromkeys(self._layout.outputs, found)
