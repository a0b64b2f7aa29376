"""Average precision as COCO defines it (Lin et al. 2014, arXiv 1405.0312; cocoeval of its tools), by faster-coco-eval.

`CocoAveragePrecision` is the base of the metrics of boxes and of instance masks. Labels do not influence each other, so
they are measured a few at a time: the library wants a dict for each box, ten times what the metrics keep.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from topwork import Json, Metric, Row

if TYPE_CHECKING:
    import numpy

#: boxes or masks that are measured at once
_AT_ONCE = 4096
#: predictions of an image that count, best first
MOST = 100

KEYS = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar100")


class CocoAveragePrecision(Metric):
    """Average precision as COCO defines it, of boxes or masks.

    Subclasses keep what they need of each row in `rows` and write it as COCO's files in `entries`.

    Keys: map (mean over overlaps .50:.05:.95), map50, map75, map_small, map_medium, map_large (areas below 32 x 32, up
    to 96 x 96, and above, in pixels), mar100 (mean recall of 100 predictions an image and label); NaN where there is
    no such truth. Table `per_label`: map, map50, objects.

    Args:
        names: label names in the order of the model's outputs.
        truth: (row, width and height of the image) -> the truth of the row, as the subclass reads it.
    """

    keys: tuple[str, ...] = KEYS
    primary = "map"
    kind: ClassVar[Literal["bbox", "segm"]]

    def __init__(self, names: Sequence[str], truth: Callable[[Row, tuple[int, int]], Any]) -> None:
        self.names, self._truth = list(names), truth
        self.rows: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # another process merges, it does not update

    def merge(self, metric: CocoAveragePrecision) -> None:
        """Add the rows of another process."""
        self.rows += metric.rows

    @abstractmethod
    def labels(self) -> tuple[Iterable[int], Iterable[int]]:
        """Return the label index of every truth and of every prediction."""

    @abstractmethod
    def entries(self, labels: range) -> tuple[list[Json], list[Json], list[Json]]:
        """Return images, truths and predictions of these labels as COCO's files have them.

        `category_id` is the label index plus one; truths have an `id` from 1. At least one prediction: the library
        refuses an empty list.
        """

    def result(self) -> dict[str, Json]:
        """Return the figures, see the class."""
        import numpy

        truths, predictions = (
            numpy.bincount([*labels], minlength=len(self.names)).tolist() for labels in self.labels()
        )
        if not sum(truths):
            return dict.fromkeys(KEYS, math.nan)
        parts = [self._measured(labels) for labels in _groups([sum(pair) for pair in zip(truths, predictions)])]
        precision, recall = (numpy.concatenate(arrays, axis=1) for arrays in zip(*parts))
        by_overlap = (precision, precision[0], precision[5])
        figures = [_mean(part[..., 0]) for part in by_overlap] + [_mean(precision[..., size]) for size in (1, 2, 3)]
        result: dict[str, Json] = dict(zip(KEYS, [*figures, _mean(recall[..., 0])]))
        result["per_label"] = [
            {"label": name, "map": _mean(whole), "map50": _mean(whole[:1]), "objects": int(count)}
            for name, whole, count in zip(self.names, precision[..., 0].T, truths)
        ]
        return result

    def _measured(self, labels: range) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return precision (the mean over the recalls) and recall, each [10 overlaps, labels, 4 sizes].

        Where there is no truth, both are -1.
        """
        from faster_coco_eval import COCO, COCOeval_faster

        images, truths, predictions = self.entries(labels)
        categories = [{"id": label + 1, "name": self.names[label]} for label in labels]
        truth = COCO({"images": images, "annotations": truths, "categories": categories})
        evaluation = COCOeval_faster(truth, truth.loadRes(predictions), iouType=self.kind)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval["precision"][..., -1].mean(1), evaluation.eval["recall"][..., -1]


def _groups(counts: Sequence[int]) -> Iterator[range]:
    """Yield neighbouring labels with `_AT_ONCE` boxes or fewer; a label with more is alone."""
    first = total = 0
    for label, count in enumerate(counts):
        if label > first and total + count > _AT_ONCE:
            yield range(first, label)
            first, total = label, 0
        total += count
    yield range(first, len(counts))


def _mean(values: numpy.ndarray) -> float:
    """Return the mean of the defined values."""
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan
