"""COCO's metric of boxes: mean average precision. It keeps a few numbers for each box, never a picture. What a detector
predicts stands here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from topwork import Json, Metric, Row
from topwork_tasks._vision.boxes import Objects
from topwork_tasks._vision.coco_metric import KEYS, averages

_MOST = 100
#: nobody looks at the outlines of boxes, but the library makes them where there are none
_NO_OUTLINE: list[Json] = []


class Detections(list):
    """A prediction: `[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, ...]`, the boxes above a threshold.

    Attributes:
        scores, labels, boxes: arrays [n], [n] and [n, 4] of all boxes, for the metric; corners in pixels.
        size: width and height of the picture.
    """

    def __init__(
        self, scores: Any, labels: Any, boxes: Any, size: tuple[int, int], names: Sequence[str], threshold: float
    ) -> None:
        self.scores, self.labels, self.boxes, self.size = scores, labels, boxes, size
        corners = ("xmin", "ymin", "xmax", "ymax")
        super().__init__(
            {"score": float(score), "label": names[label], "box": dict(zip(corners, (int(value) for value in box)))}
            for score, label, box in zip(scores, labels, boxes)
            if score > threshold
        )

    def __reduce__(self) -> tuple:
        return _restore, (list(self), self.__dict__)


def _restore(entries: list[Json], attributes: dict[str, Any]) -> Detections:
    made = Detections.__new__(Detections)
    made.extend(entries)
    made.__dict__.update(attributes)
    return made


class CocoMetric(Metric):
    """Mean average precision as COCO defines it.

    Args:
        names: label names in the order of the model's outputs.
        truth: (row, size) -> the row's objects and their label numbers.

    Keys and table: see `averages`.
    """

    keys = KEYS
    primary = "map"

    def __init__(
        self, names: Sequence[str], truth: Callable[[Row, tuple[int, int]], tuple[Objects, list[int]]]
    ) -> None:
        self.names, self._truth = list(names), truth
        self.found: list[tuple[Any, Any, Any]] = []
        self.truths: list[tuple[Any, Any, Any, Any]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # another process merges, it does not update

    def update(self, row: Row, prediction: Detections) -> None:
        import numpy

        objects, labels = self._truth(row, prediction.size)
        self.truths.append(
            (
                objects.boxes.astype(numpy.float32),
                numpy.array(labels, dtype=numpy.int16),
                objects.crowd,
                objects.areas.astype(numpy.float32),
            )
        )
        best = numpy.argsort(-prediction.scores, kind="stable")[:_MOST]
        self.found.append(
            (
                prediction.scores[best].astype(numpy.float32),
                prediction.labels[best].astype(numpy.int16),
                prediction.boxes[best].astype(numpy.float32),
            )
        )

    def merge(self, other: CocoMetric) -> None:
        self.found += other.found
        self.truths += other.truths

    def result(self) -> dict[str, Json]:
        truths, guesses = self._counts(self.truths), self._counts(self.found)
        return averages(self.names, truths, guesses, self._entries, "bbox")

    def _counts(self, entries: Sequence[tuple[Any, ...]]) -> list[int]:
        """How many there are of each label; the labels stand second in an entry."""
        import numpy

        total = numpy.zeros(len(self.names), dtype=int)
        for entry in entries:
            total += numpy.bincount(entry[1], minlength=len(total))
        return total.tolist()

    def _entries(self, labels: range) -> tuple[list[Json], list[Json], list[Json]]:
        """Images, truths and predictions of these labels as COCO's files have them."""
        images = [{"id": number, "width": 1, "height": 1} for number in range(1, len(self.truths) + 1)]
        truths: list[Json] = []
        for image, label, (box, _, crowd, area) in _chosen(self.truths, labels):
            told = {"bbox": _as_coco(box), "area": float(area), "iscrowd": int(crowd)}
            truths.append({"id": len(truths) + 1, "image_id": image, "category_id": label + 1, **told})
        found = [
            {
                "image_id": image,
                "category_id": label + 1,
                "bbox": _as_coco(box),
                "score": float(score),
                "segmentation": _NO_OUTLINE,
            }
            for image, label, (score, _, box) in _chosen(self.found, labels)
        ]
        # a box of no overlap and no score changes nothing
        nothing = {"image_id": 1, "category_id": labels.start + 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}
        return images, truths, found or [nothing]


def _chosen(rows: Sequence[tuple[Any, ...]], labels: range) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """(number of the picture from 1, label, values) of each box of these labels; the labels stand second."""
    for image, arrays in enumerate(rows, 1):
        for values in zip(*arrays):
            if values[1] in labels:
                yield image, int(values[1]), values


def _as_coco(box: Any) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]
