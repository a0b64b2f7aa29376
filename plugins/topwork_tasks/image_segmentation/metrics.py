"""Metrics of segmentation: a confusion matrix for semantic masks, COCO's average precision for instances. Both keep
numbers only, never a mask of a whole picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from topwork import Json, Metric, Row
from topwork_tasks._vision.coco_metric import KEYS, averages

_MOST = 100


class SemanticMetric(Metric):
    """Keys: mean_iou (over the labels that occur in the truth or in a prediction), mean_accuracy (over the labels of
    the truth), pixel_accuracy. Table `per_label`: iou, accuracy, pixels. All from one confusion matrix of counts.

    Args:
        names: label names.
        truth: (row, size) -> label numbers [height, width].
        ignored: the number that does not count.
    """

    keys = ("mean_iou", "mean_accuracy", "pixel_accuracy")
    primary = "mean_iou"

    def __init__(self, names: Sequence[str], truth: Callable[[Row, tuple[int, int]], Any], ignored: int) -> None:
        import numpy

        self.names, self._truth, self.ignored = list(names), truth, ignored
        self.matrix = numpy.zeros((len(self.names), len(self.names)), dtype=numpy.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # another process merges, it does not update

    def update(self, row: Row, prediction: Any) -> None:
        import numpy

        truth = self._truth(row, prediction.size)
        valid = truth != self.ignored
        places = truth[valid].astype(numpy.int64) * len(self.names) + prediction.map[valid]
        self.matrix += numpy.bincount(places, minlength=self.matrix.size).reshape(self.matrix.shape)

    def merge(self, other: SemanticMetric) -> None:
        self.matrix = self.matrix + other.matrix

    def result(self) -> dict[str, Json]:
        import numpy

        total = self.matrix.sum()
        if not total:
            return dict.fromkeys(self.keys, math.nan)
        hits, truth, found = numpy.diag(self.matrix), self.matrix.sum(1), self.matrix.sum(0)
        union = truth + found - hits
        overlap = numpy.where(union > 0, hits / numpy.maximum(union, 1), numpy.nan)
        recall = numpy.where(truth > 0, hits / numpy.maximum(truth, 1), numpy.nan)
        return {
            "mean_iou": float(numpy.nanmean(overlap)),
            "mean_accuracy": float(numpy.nanmean(recall)),
            "pixel_accuracy": float(hits.sum() / total),
            "per_label": [
                {"label": name, "iou": _or_none(iou), "accuracy": _or_none(share), "pixels": int(count)}
                for name, iou, share, count in zip(self.names, overlap, recall, truth)
            ],
        }


def _or_none(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


class MaskMetric(Metric):
    """Average precision of masks as COCO defines it.

    Only masks that can match are kept, as run lengths: those of the truth, and predictions that overlap a truth of
    their label by half or more. Any other prediction can only be wrong, so its score, label and area say all: it is
    put back as a strip of that area, outside the picture.

    Args:
        names: label names.
        truth: (row, size) -> the row's `Segments`.

    Keys and table: see `averages`.
    """

    keys = KEYS
    primary = "map"

    def __init__(self, names: Sequence[str], truth: Callable[[Row, tuple[int, int]], Any]) -> None:
        self.names, self._truth = list(names), truth
        self.rows: list[tuple[tuple[int, int], list[Any], list[Any]]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}

    def update(self, row: Row, prediction: Any) -> None:
        import numpy
        from faster_coco_eval.core import mask as coco

        segments = self._truth(row, prediction.size)
        truths = []
        for place, (label, crowd) in enumerate(zip(segments.labels, segments.crowd)):
            mask = segments.mask(place)
            if mask.any():
                truths.append((label, crowd, encoded(mask)))
        order = numpy.argsort(-numpy.asarray(prediction.scores), kind="stable")[:_MOST]
        found = []
        for place in order:
            label, rle = int(prediction.labels[place]), prediction.rles[place]
            same = [entry for entry in truths if entry[0] == label]
            near = same and float(coco.iou([rle], [e[2] for e in same], [int(e[1]) for e in same]).max()) >= 0.5
            found.append((label, float(prediction.scores[place]), rle if near else int(coco.area(rle))))
        self.rows.append(
            (
                prediction.size,
                [(label, crowd, rle["counts"]) for label, crowd, rle in truths],
                [(label, score, kept if isinstance(kept, int) else kept["counts"]) for label, score, kept in found],
            )
        )

    def merge(self, other: MaskMetric) -> None:
        self.rows += other.rows

    def result(self) -> dict[str, Json]:
        truths, guesses = [0] * len(self.names), [0] * len(self.names)
        for _, real, found in self.rows:
            for label, _, _ in real:
                truths[label] += 1
            for label, _, _ in found:
                guesses[label] += 1
        return averages(self.names, truths, guesses, self._entries, "segm")

    def _entries(self, labels: range) -> tuple[list[Json], list[Json], list[Json]]:
        """Images, truths and predictions of these labels as COCO's files have them."""
        images: list[Json] = []
        annotations: list[Json] = []
        found: list[Json] = []
        for image, (size, truths, guesses) in enumerate(self.rows, 1):
            images.append({"id": image, "width": 2 * size[0], "height": size[1]})
            for label, crowd, counts in truths:
                if label in labels:
                    told = {"id": len(annotations) + 1, "image_id": image, "category_id": label + 1}
                    annotations.append({**told, **_as_coco(_widened(counts, size)), "iscrowd": int(crowd)})
            for label, score, kept in guesses:
                if label in labels:
                    rle = _strip(kept, size) if isinstance(kept, int) else _widened(kept, size)
                    found.append({"image_id": image, "category_id": label + 1, "segmentation": rle, "score": score})
        # a strip outside with no score changes nothing
        strip = _strip(1, self.rows[0][0])
        nothing = {"image_id": 1, "category_id": labels.start + 1, "segmentation": strip, "score": 0.0}
        return images, annotations, found or [nothing]


def _as_coco(rle: dict[str, Any]) -> dict[str, Json]:
    from faster_coco_eval.core import mask as coco

    return {
        "segmentation": rle,
        "bbox": [float(value) for value in coco.toBbox(rle)],
        "area": float(coco.area(rle)),
    }


def encoded(mask: Any) -> dict[str, Any]:
    """Run lengths {size, counts} of a bool mask [height, width], as COCO's tools write them."""
    import numpy
    from faster_coco_eval.core import mask as coco

    return coco.encode(numpy.asfortranarray(mask.astype(numpy.uint8)))


def decoded(rle: dict[str, Any]) -> Any:
    """bool [height, width]"""
    from faster_coco_eval.core import mask as coco

    return coco.decode(rle).astype(bool)


def _widened(counts: bytes, size: tuple[int, int]) -> dict[str, Any]:
    """The same mask in a picture of twice the width: run lengths go down the columns, so only zeros follow."""
    import numpy

    mask = decoded({"size": [size[1], size[0]], "counts": counts})
    return encoded(numpy.concatenate([mask, numpy.zeros_like(mask)], axis=1))


def _strip(area: int, size: tuple[int, int]) -> dict[str, Any]:
    """A mask of this area beyond the right edge of the picture."""
    from faster_coco_eval.core import mask as coco

    pixels = size[0] * size[1]
    shape = {"size": [size[1], 2 * size[0]], "counts": [pixels, area, pixels - area]}
    return coco.frPyObjects(shape, size[1], 2 * size[0])
