"""Average precision as COCO defines it (Lin et al. 2014, arXiv 1405.0312; cocoeval of its tools), by faster-coco-eval.

Labels do not touch each other, so they are measured a few at a time: the library wants a dict for each box, ten times
what the metrics keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from topwork import Json

if TYPE_CHECKING:
    import numpy

#: boxes or masks that are measured at once
_AT_ONCE = 4096

#: (the numbers of the labels to be measured) -> images, truths and predictions as COCO's files have them
Entries = Callable[[range], tuple[list[Json], list[Json], list[Json]]]

KEYS = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar100")


def averages(
    names: Sequence[str], truths: Sequence[int], guesses: Sequence[int], entries: Entries, kind: Literal["bbox", "segm"]
) -> dict[str, Json]:
    """Keys: map (mean over overlaps .50:.05:.95), map50, map75, map_small, map_medium, map_large (areas below 32 x 32,
    up to 96 x 96, and above, in pixels), mar100 (mean recall of 100 predictions a picture and label); NaN where there
    is no such truth. Table `per_label`: map, map50, objects.

    Args:
        truths, guesses: how many there are of each label.
        entries: `category_id` is the number of the label plus one; truths have an `id` from 1; one prediction at least,
            for the library refuses an empty list.
    """
    import numpy

    if not sum(truths):
        return dict.fromkeys(KEYS, math.nan)
    parts = [
        _measured(labels, names, entries, kind) for labels in _groups([sum(pair) for pair in zip(truths, guesses)])
    ]
    precision, recall = (numpy.concatenate(arrays, axis=1) for arrays in zip(*parts))
    found = (precision, precision[0], precision[5])
    figures = [_mean(part[..., 0]) for part in found] + [_mean(precision[..., size]) for size in (1, 2, 3)]
    result: dict[str, Json] = dict(zip(KEYS, [*figures, _mean(recall[..., 0])]))
    result["per_label"] = [
        {"label": name, "map": _mean(whole), "map50": _mean(whole[:1]), "objects": int(count)}
        for name, whole, count in zip(names, precision[..., 0].T, truths)
    ]
    return result


def _groups(counts: Sequence[int]) -> Iterator[range]:
    """Labels that stand together, with `_AT_ONCE` boxes or fewer; a label with more stands alone."""
    first = held = 0
    for label, count in enumerate(counts):
        if label > first and held + count > _AT_ONCE:
            yield range(first, label)
            first, held = label, 0
        held += count
    yield range(first, len(counts))


def _measured(labels: range, names: Sequence[str], entries: Entries, kind: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Precision (the mean over the recalls) and recall, each [10 overlaps, labels, 4 sizes]; -1 without truth."""
    from faster_coco_eval import COCO, COCOeval_faster

    images, annotations, found = entries(labels)
    categories = [{"id": label + 1, "name": names[label]} for label in labels]
    truth = COCO({"images": images, "annotations": annotations, "categories": categories})
    evaluation = COCOeval_faster(truth, truth.loadRes(found), iouType=kind)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., -1].mean(1), evaluation.eval["recall"][..., -1]


def _mean(values: numpy.ndarray) -> float:
    """Mean of what is defined."""
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan
