"""Predictions of detectors, and COCO's mean average precision of boxes.

The metric keeps a few numbers for each box, never an image; the averages are in `_vision.coco_metric`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from topwork import Json, Row
from topwork_tasks._vision.coco_metric import MOST, CocoAveragePrecision

#: outlines of boxes are never used, but the library makes them where there are none
_NO_OUTLINE: list[Json] = []


class Detections(list):
    """Prediction: `[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, ...]`, the boxes above a threshold.

    Attributes:
        scores, labels, boxes: arrays [n], [n] and [n, 4] of all boxes, for the metric; corners in pixels.
        size: width and height of the image.
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


class CocoMetric(CocoAveragePrecision):
    """Mean average precision of boxes; `truth` gives a row's `Objects` and their label indices."""

    kind = "bbox"

    def update(self, row: Row, prediction: Detections) -> None:
        """Add one row and its prediction."""
        import numpy

        objects, labels = self._truth(row, prediction.size)
        truths = (
            objects.boxes.astype(numpy.float32),
            numpy.array(labels, dtype=numpy.int16),
            objects.crowd,
            objects.areas.astype(numpy.float32),
        )
        best = numpy.argsort(-prediction.scores, kind="stable")[:MOST]
        predictions = (
            prediction.scores[best].astype(numpy.float32),
            prediction.labels[best].astype(numpy.int16),
            prediction.boxes[best].astype(numpy.float32),
        )
        self.rows.append((truths, predictions))

    def labels(self) -> tuple[Iterable[int], Iterable[int]]:
        """Return the label index of every true box and of every predicted box."""
        true = [label for truths, _ in self.rows for label in truths[1].tolist()]
        return true, [label for _, predictions in self.rows for label in predictions[1].tolist()]

    def entries(self, labels: range) -> tuple[list[Json], list[Json], list[Json]]:
        """Return images, truths and predictions of these labels as COCO's files have them."""
        images = [{"id": number, "width": 1, "height": 1} for number in range(1, len(self.rows) + 1)]
        truths: list[Json] = []
        for image, label, (box, _, crowd, area) in self._chosen(0, labels):
            values = {"bbox": _as_coco(box), "area": float(area), "iscrowd": int(crowd)}
            truths.append({"id": len(truths) + 1, "image_id": image, "category_id": label + 1, **values})
        predictions = [
            {
                "image_id": image,
                "category_id": label + 1,
                "bbox": _as_coco(box),
                "score": float(score),
                "segmentation": _NO_OUTLINE,
            }
            for image, label, (score, _, box) in self._chosen(1, labels)
        ]
        # a box of no overlap and no score changes nothing
        nothing = {"image_id": 1, "category_id": labels.start + 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}
        return images, truths, predictions or [nothing]

    def _chosen(self, side: int, labels: range) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
        """Yield (image from 1, label, values) of each true (side 0) or predicted (side 1) box of these labels."""
        for image, row in enumerate(self.rows, 1):
            for values in zip(*row[side]):
                if values[1] in labels:
                    yield image, int(values[1]), values


def _as_coco(box: Any) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]
