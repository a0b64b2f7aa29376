"""Panoptic quality (Kirillov et al. 2019, arXiv 1801.00868, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from topwork import Json, Metric, Row


def matched(truth: Any, found: Any, labels: Sequence[int]) -> tuple[list[tuple[int, float]], list[int], list[int]]:
    """Match the segments of one picture.

    A predicted segment matches a true one of its label when they overlap by more than half (IoU, without the pixels
    that are nothing in the truth). A prediction most of whose pixels are nothing, or a crowd of its label, is left out.

    Args:
        truth: `Segments`; id 0 and segments without a match that are crowds do not count.
        found: int [height, width], 0 for nothing, else the number of the segment from 1.
        labels: of the predicted segments.

    Returns:
        (label, IoU) of the matches; labels of predictions without a match; labels of truths without a match.
    """
    import numpy

    places = len(truth.labels) + 1
    pairs = numpy.bincount(
        (found.astype(numpy.int64) * places + truth.ids).ravel(), minlength=(len(labels) + 1) * places
    ).reshape(len(labels) + 1, places)
    true_area, found_area = pairs.sum(0), pairs.sum(1)
    hits: list[tuple[int, float]] = []
    free_truths = {place for place in range(1, places) if true_area[place] and not truth.crowd[place - 1]}
    extra = []
    for number in range(1, len(labels) + 1):
        if not found_area[number]:
            continue
        label, hit = labels[number - 1], None
        for place in free_truths:
            if truth.labels[place - 1] == label and pairs[number, place]:
                union = true_area[place] + found_area[number] - pairs[number, place] - pairs[number, 0]
                overlap = float(pairs[number, place] / union)
                if overlap > 0.5:
                    hit = (place, overlap)
        if hit is not None:
            free_truths.remove(hit[0])
            hits.append((label, hit[1]))
            continue
        crowds = [p for p in range(1, places) if truth.crowd[p - 1] and truth.labels[p - 1] == label]
        if (pairs[number, 0] + sum(pairs[number, place] for place in crowds)) / found_area[number] <= 0.5:
            extra.append(label)
    return hits, extra, [truth.labels[place - 1] for place in free_truths]


class PanopticMetric(Metric):
    """Keys: pq, sq (mean IoU of the matches), rq (F1 of the segments), and with `stuff` pq of things and pq of stuff:
    means over the labels that occur. Table `per_label`. The state is four numbers a label.

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
        hits, extra, missed = matched(self._truth(row, prediction.size), prediction.map, prediction.labels)
        for label, overlap in hits:
            self.counts[label] += (1, 0, 0, overlap)
        for label in extra:
            self.counts[label, 1] += 1
        for label in missed:
            self.counts[label, 2] += 1

    def merge(self, other: PanopticMetric) -> None:
        self.counts = self.counts + other.counts

    def result(self) -> dict[str, Json]:
        import numpy

        hits, extra, missed, overlap = self.counts.T
        seen = (hits + extra + missed) > 0
        if not seen.any():
            return dict.fromkeys(self.keys, math.nan)
        found = hits / numpy.maximum(hits + extra / 2 + missed / 2, 0.5)
        segmented = numpy.where(hits > 0, overlap / numpy.maximum(hits, 1), 0.0)
        quality = found * segmented
        table = [
            {"label": name, "pq": float(q), "sq": float(s), "rq": float(r), "segments": int(h + m)}
            for name, q, s, r, h, m, there in zip(self.names, quality, segmented, found, hits, missed, seen)
            if there
        ]
        result: dict[str, Json] = {
            "pq": float(quality[seen].mean()),
            "sq": float(segmented[seen].mean()),
            "rq": float(found[seen].mean()),
            "per_label": table,
        }
        for key, wanted in (("pq_stuff", True), ("pq_things", False)) if self.stuff else ():
            own = [entry["pq"] for entry in table if (entry["label"] in self.stuff) == wanted]
            result[key] = sum(own) / len(own) if own else math.nan
        return result
