"""Metrics of segmentation, which keep numbers only, never a mask of a whole image.

They are a confusion matrix for semantic masks, COCO's average precision for instances, and panoptic quality (Kirillov
et al. 2019, arXiv 1801.00868, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from topwork import Json, Metric, Row
from topwork_tasks._vision.coco_metric import MOST, CocoAveragePrecision


class SemanticMetric(Metric):
    """Overlap and accuracy of labels, from one confusion matrix of pixels.

    Keys: mean_iou (over the labels that occur in the truth or in a prediction), mean_accuracy (over the labels of the
    truth), pixel_accuracy. Table `per_label`: iou, accuracy, pixels.

    Args:
        names: label names.
        truth: (row, size) -> label indices [height, width].
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
        """Add one row and its prediction."""
        import numpy

        truth = self._truth(row, prediction.size)
        valid = truth != self.ignored
        cells = truth[valid].astype(numpy.int64) * len(self.names) + prediction.map[valid]
        self.matrix += numpy.bincount(cells, minlength=self.matrix.size).reshape(self.matrix.shape)

    def merge(self, metric: SemanticMetric) -> None:
        """Add the counts of another process."""
        self.matrix = self.matrix + metric.matrix

    def result(self) -> dict[str, Json]:
        """Return the figures, see the class."""
        import numpy

        total = self.matrix.sum()
        if not total:
            return dict.fromkeys(self.keys, math.nan)
        hits, truth, predicted = numpy.diag(self.matrix), self.matrix.sum(1), self.matrix.sum(0)
        union = truth + predicted - hits
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


# ---------------------------------------------------------------- instances


class InstanceMetric(CocoAveragePrecision):
    """Average precision of masks; `truth` gives a row's `Segments`.

    Only masks that can match are kept, as run lengths: those of the truth, and predictions that overlap a truth of
    their label by half or more. Any other prediction can only be wrong, so its score, label and area say all: it is
    put back as a strip of that area, outside the image.
    """

    kind = "segm"

    def update(self, row: Row, prediction: Any) -> None:
        """Add one row and its prediction."""
        import numpy
        from faster_coco_eval.core import mask as coco

        segments = self._truth(row, prediction.size)
        truths = []
        for index, (label, crowd) in enumerate(zip(segments.labels, segments.crowd)):
            mask = segments.mask(index)
            if mask.any():
                truths.append((label, crowd, encoded(mask)))
        order = numpy.argsort(-numpy.asarray(prediction.scores), kind="stable")[:MOST]
        predictions = []
        for index in order:
            label, rle = int(prediction.labels[index]), prediction.rles[index]
            same = [(true_rle, int(crowd)) for true_label, crowd, true_rle in truths if true_label == label]
            near = same and float(coco.iou([rle], [rle for rle, _ in same], [crowd for _, crowd in same]).max()) >= 0.5
            kept = rle["counts"] if near else int(coco.area(rle))
            predictions.append((label, float(prediction.scores[index]), kept))
        self.rows.append(
            (prediction.size, [(label, crowd, rle["counts"]) for label, crowd, rle in truths], predictions)
        )

    def labels(self) -> tuple[Iterable[int], Iterable[int]]:
        """Return the label index of every true mask and of every predicted mask."""
        truths = [label for _, truths, _ in self.rows for label, _, _ in truths]
        return truths, [label for _, _, predictions in self.rows for label, _, _ in predictions]

    def entries(self, labels: range) -> tuple[list[Json], list[Json], list[Json]]:
        """Return images, truths and predictions of these labels as COCO's files have them."""
        images: list[Json] = []
        annotations: list[Json] = []
        results: list[Json] = []
        for image, (size, truths, predictions) in enumerate(self.rows, 1):
            images.append({"id": image, "width": 2 * size[0], "height": size[1]})
            for label, crowd, counts in truths:
                if label in labels:
                    ids = {"id": len(annotations) + 1, "image_id": image, "category_id": label + 1}
                    annotations.append({**ids, **_as_coco(_widened(counts, size)), "iscrowd": int(crowd)})
            for label, score, kept in predictions:
                if label in labels:
                    rle = _strip(kept, size) if isinstance(kept, int) else _widened(kept, size)
                    results.append({"image_id": image, "category_id": label + 1, "segmentation": rle, "score": score})
        # a strip outside with no score changes nothing
        strip = _strip(1, self.rows[0][0])
        nothing = {"image_id": 1, "category_id": labels.start + 1, "segmentation": strip, "score": 0.0}
        return images, annotations, results or [nothing]


def _as_coco(rle: dict[str, Any]) -> dict[str, Json]:
    from faster_coco_eval.core import mask as coco

    return {
        "segmentation": rle,
        "bbox": [float(value) for value in coco.toBbox(rle)],
        "area": float(coco.area(rle)),
    }


def encoded(mask: Any) -> dict[str, Any]:
    """Return the run lengths {size, counts} of a bool mask [height, width], as COCO's tools write them."""
    import numpy
    from faster_coco_eval.core import mask as coco

    return coco.encode(numpy.asfortranarray(mask.astype(numpy.uint8)))


def decoded(rle: dict[str, Any]) -> Any:
    """Return the bool mask [height, width] of run lengths."""
    from faster_coco_eval.core import mask as coco

    return coco.decode(rle).astype(bool)


def _widened(counts: bytes, size: tuple[int, int]) -> dict[str, Any]:
    """Return the same mask in an image of twice the width: run lengths go down the columns, so only zeros follow."""
    import numpy

    mask = decoded({"size": [size[1], size[0]], "counts": counts})
    return encoded(numpy.concatenate([mask, numpy.zeros_like(mask)], axis=1))


def _strip(area: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return a mask of this area beyond the right edge of the image."""
    from faster_coco_eval.core import mask as coco

    pixels = size[0] * size[1]
    shape = {"size": [size[1], 2 * size[0]], "counts": [pixels, area, pixels - area]}
    return coco.frPyObjects(shape, size[1], 2 * size[0])


# ---------------------------------------------------------------- panoptic quality


def match_segments(
    truth: Any, predicted: Any, labels: Sequence[int]
) -> tuple[list[tuple[int, float]], list[int], list[int]]:
    """Match the segments of one image.

    A predicted segment matches a true one of its label when they overlap by more than half (IoU, without the pixels
    that are nothing in the truth). A prediction most of whose pixels are nothing, or a crowd of its label, is left out.

    Args:
        truth: `Segments`; id 0 and segments without a match that are crowds do not count.
        predicted: int [height, width], 0 for nothing, else the id of the segment from 1.
        labels: of the predicted segments.

    Returns:
        (label, IoU) of the matches; labels of predictions without a match; labels of truths without a match.
    """
    import numpy

    count = len(truth.labels) + 1
    pairs = numpy.bincount(
        (predicted.astype(numpy.int64) * count + truth.ids).ravel(), minlength=(len(labels) + 1) * count
    ).reshape(len(labels) + 1, count)
    true_area, predicted_area = pairs.sum(0), pairs.sum(1)
    hits: list[tuple[int, float]] = []
    free_truths = {t for t in range(1, count) if true_area[t] and not truth.crowd[t - 1]}
    extra = []
    for p in range(1, len(labels) + 1):
        if not predicted_area[p]:
            continue
        label, hit = labels[p - 1], None
        for t in free_truths:
            if truth.labels[t - 1] == label and pairs[p, t]:
                union = true_area[t] + predicted_area[p] - pairs[p, t] - pairs[p, 0]
                overlap = float(pairs[p, t] / union)
                if overlap > 0.5:
                    hit = (t, overlap)
        if hit is not None:
            free_truths.remove(hit[0])
            hits.append((label, hit[1]))
            continue
        crowds = [t for t in range(1, count) if truth.crowd[t - 1] and truth.labels[t - 1] == label]
        if (pairs[p, 0] + sum(pairs[p, t] for t in crowds)) / predicted_area[p] <= 0.5:
            extra.append(label)
    return hits, extra, [truth.labels[t - 1] for t in free_truths]


class PanopticMetric(Metric):
    """Panoptic quality. The state is four numbers a label.

    Keys: pq, sq (mean IoU of the matches), rq (F1 of the segments), and with `stuff` pq of things and pq of stuff:
    means over the labels that occur. Table `per_label`.

    Args:
        names: label names.
        truth: (row, size) -> the row's `Segments`.
        stuff: names of the labels that are no things.
    """

    keys: tuple[str, ...] = ("pq", "sq", "rq")
    primary = "pq"

    def __init__(
        self, names: Sequence[str], truth: Callable[[Row, tuple[int, int]], Any], stuff: Collection[str] = ()
    ) -> None:
        import numpy

        self.names, self._truth, self.stuff = list(names), truth, set(stuff)
        if self.stuff:
            self.keys = ("pq", "sq", "rq", "pq_things", "pq_stuff")
        self.counts = numpy.zeros((len(self.names), 4))  # matches, predictions without, truths without, sum of IoU

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # another process merges, it does not update

    def update(self, row: Row, prediction: Any) -> None:
        """Add one row and its prediction."""
        hits, extra, missed = match_segments(self._truth(row, prediction.size), prediction.map, prediction.labels)
        for label, overlap in hits:
            self.counts[label] += (1, 0, 0, overlap)
        for label in extra:
            self.counts[label, 1] += 1
        for label in missed:
            self.counts[label, 2] += 1

    def merge(self, metric: PanopticMetric) -> None:
        """Add the counts of another process."""
        self.counts = self.counts + metric.counts

    def result(self) -> dict[str, Json]:
        """Return the figures, see the class."""
        import numpy

        hits, extra, missed, overlap = self.counts.T
        occurs = (hits + extra + missed) > 0
        if not occurs.any():
            return dict.fromkeys(self.keys, math.nan)
        recognised = hits / numpy.maximum(hits + extra / 2 + missed / 2, 0.5)
        segmented = numpy.where(hits > 0, overlap / numpy.maximum(hits, 1), 0.0)
        quality = recognised * segmented
        table = [
            {"label": name, "pq": float(q), "sq": float(s), "rq": float(r), "segments": int(h + m)}
            for name, q, s, r, h, m, there in zip(self.names, quality, segmented, recognised, hits, missed, occurs)
            if there
        ]
        result: dict[str, Json] = {
            "pq": float(quality[occurs].mean()),
            "sq": float(segmented[occurs].mean()),
            "rq": float(recognised[occurs].mean()),
            "per_label": table,
        }
        for key, is_stuff in (("pq_stuff", True), ("pq_things", False)) if self.stuff else ():
            values = [line["pq"] for line in table if (line["label"] in self.stuff) == is_stuff]
            result[key] = sum(values) / len(values) if values else math.nan
        return result
