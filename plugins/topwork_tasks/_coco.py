"""COCO's metric of boxes: mean average precision, by faster-coco-eval. It keeps a few numbers for each box, never a
picture. What a detector predicts stands here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from topwork import Json, Metric, Row
from topwork_tasks._boxes import Objects

#: what `COCOeval.stats` holds, in its order; areas are below 32 x 32, up to 96 x 96, and above, in pixels
_STATS = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar1", "mar10", "mar100")
_MOST = 100


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
    """Mean average precision as COCO defines it (Lin et al. 2014, arXiv 1405.0312; cocoeval of its tools).

    Args:
        names: label names in the order of the model's outputs.
        truth: (row, size) -> the row's objects and their label numbers.

    Keys: map (mean over overlaps .50:.05:.95), map50, map75, map_small, map_medium, map_large, mar100 (mean recall of
    100 boxes a picture); NaN where there is no such object. Table `per_label`: map, map50, objects.
    """

    keys = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar100")
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
        import numpy

        if not any(len(labels) for _, labels, _, _ in self.truths):
            return dict.fromkeys(self.keys, math.nan)
        counts = numpy.zeros(len(self.names), dtype=int)
        for _, labels, _, _ in self.truths:
            numpy.add.at(counts, labels, 1)
        precision, stats = self._evaluate()
        result: dict[str, Json] = {key: stats[key] for key in self.keys}
        result["per_label"] = [
            {
                "label": name,
                "map": _mean(precision[:, :, number, 0, -1]),
                "map50": _mean(precision[0, :, number, 0, -1]),
                "objects": int(counts[number]),
            }
            for number, name in enumerate(self.names)
        ]
        return result

    def _evaluate(self) -> tuple[Any, dict[str, float]]:
        """Precision [overlaps, recalls, labels, sizes, most boxes] and the summary."""
        from faster_coco_eval import COCO, COCOeval_faster

        truth = COCO({"images": self._images(), "annotations": self._annotations(), "categories": self._categories()})
        found = [
            {"image_id": image, "category_id": int(label) + 1, "bbox": _as_coco(box), "score": float(score)}
            for image, entries in enumerate(self.found, 1)
            for score, label, box in zip(*entries)
        ]
        if not found:  # the library refuses an empty list; a box of no overlap and no score changes nothing
            found = [{"image_id": 1, "category_id": 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}]
        evaluation = COCOeval_faster(truth, truth.loadRes(found), iouType="bbox")
        evaluation.run()
        stats = [float(value) for value in evaluation.stats[: len(_STATS)]]
        return evaluation.eval["precision"], {
            key: value if value >= 0 else math.nan for key, value in zip(_STATS, stats)
        }

    def _images(self) -> list[Json]:
        return [{"id": number, "width": 1, "height": 1} for number in range(1, len(self.truths) + 1)]

    def _categories(self) -> list[Json]:
        return [{"id": number, "name": name} for number, name in enumerate(self.names, 1)]

    def _annotations(self) -> list[Json]:
        annotations: list[Json] = []
        for image, entries in enumerate(self.truths, 1):
            for box, label, crowd, area in zip(*entries):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": int(label) + 1,
                        "bbox": _as_coco(box),
                        "area": float(area),
                        "iscrowd": int(crowd),
                    }
                )
        return annotations


def _as_coco(box: Any) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def _mean(values: Any) -> float:
    """Mean of what is defined; COCO writes -1 where there is no truth."""
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan
