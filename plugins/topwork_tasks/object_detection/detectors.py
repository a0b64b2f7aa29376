"""Label names of detectors and the meaning of their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from topwork import Base, Batch, DataError, QueryBox, TopworkError
from topwork_tasks._classification.labels import (
    Declared,
    LabelNames,
    distinct_labels,
    given_names,
    integer_names,
    source_names,
)
from topwork_tasks._vision.boxes import categories_of, declared_names, overlaps, to_corners
from topwork_tasks.object_detection.processors import MOST_BOXES


def learn_object_names(
    rows: Any, base: Base, auto: Sequence[str], option: LabelNames, notes: list[str]
) -> tuple[list[str], Declared]:
    """Return label names in the order of the outputs, and what the data's integers stand for.

    Names are those of the trained checkpoint, else of the option, else of the rows' source, else the distinct
    categories, sorted.

    Args:
        rows: training rows, or None.
        base: the base.
        auto: the auto classes whose heads the base may have.
        option: `label_names`.
        notes: takes lines for the log.
    """
    source = None if rows is None else declared_names(rows)
    given, _ = given_names(option)
    trained = base.trained_labels(*auto)
    values = list(_categories(rows)) if rows is not None and source is None and (given or not trained) else []
    declared = integer_names([value for _, value in values], option, source, notes, "objects")
    if names := trained or given or (source and source_names(source, "objects")):
        return list(names), declared
    if rows is None:
        raise TopworkError(
            "the label names are not known",
            hint="give training rows, `label_names`, or a base with a trained task head",
        )
    if not values:
        raise DataError("no row has an object", column="objects", hint="give rows with objects, or `label_names`")
    return distinct_labels(values, "objects"), declared


def _categories(rows: Any) -> Iterator[tuple[int, Any]]:
    """Yield (index of the row, category) of all objects."""
    narrow = rows.select_columns(["objects"]) if hasattr(rows, "select_columns") else rows
    for index, row in enumerate(narrow):
        for value in categories_of(row.get("objects"), index):
            yield index, value


# ---------------------------------------------------------------- numbers of targets


def mean_over_queries(config: Any) -> int | None:
    """Return the queries of a detector whose cross-entropy is a mean over queries; None for others."""
    if config.model_type == "yolos":
        return config.num_detection_tokens
    return config.num_queries if config.model_type in ("detr", "table-transformer") else None


def target_counts(batch: Batch, queries: int | None, config: Any) -> tuple[float, ...]:
    """Return the divisors of the terms of a set loss.

    DETR (Carion et al. 2020, arXiv 2005.12872, section A.2) divides its cross-entropy by the sum of the weights of all
    queries, where those without an object count `eos_coefficient`, and the losses of boxes by the number of boxes.
    Other detectors divide everything by the number of boxes.

    Args:
        batch: the batch.
        queries: of one image, for a detector of DETR's kind; None for others.
        config: the model's config.
    """
    boxes = [len(target["class_labels"]) for target in batch.inputs["labels"]]
    shared = float(sum(boxes))
    if queries is None:
        return (shared,)
    matched = sum(min(count, queries) for count in boxes)
    absent = getattr(config, "eos_coefficient", 0.1)
    return matched + absent * (queries * len(boxes) - matched), shared


# ---------------------------------------------------------------- outputs


def detections(
    logits: Any, boxes: Any, sizes: Sequence[tuple[int, int]], labels: int, most: int = MOST_BOXES
) -> list[Any]:
    """Return (scores, labels, corners in pixels, size) of each image, as numpy arrays of at most `most` boxes.

    Boxes are clipped to their image.

    Args:
        logits: [items, queries, labels], read by a sigmoid, or [items, queries, labels + 1], by a softmax whose last
            entry is "no object"; then each query has its best label only.
        boxes: [items, queries, 4], centre and size in shares.
        sizes: width and height of the original images.
        labels: number of labels.
        most: number of boxes of an image.
    """
    import torch

    corners = to_corners(boxes.float())
    scale = torch.tensor([[*size, *size] for size in sizes], dtype=torch.float32, device=corners.device)
    corners = (corners * scale[:, None]).clamp(min=0).minimum(scale[:, None])
    if logits.shape[-1] == labels + 1:
        scores, best = logits.float().softmax(-1)[..., :-1].max(-1)
        queries = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    elif logits.shape[-1] == labels:
        flat = logits.float().sigmoid().flatten(1)
        scores, kept = flat.topk(min(most, flat.shape[1]), dim=1)
        best, queries = kept % labels, kept // labels
    else:
        raise TopworkError(
            f"the detector has {logits.shape[-1]} outputs for {labels} labels", place="task object-detection"
        )
    corners = corners.gather(1, queries[..., None].expand(-1, -1, 4))
    arrays = [tensor.cpu().numpy() for tensor in (scores, best, corners)]
    return [(*(array[index] for array in arrays), size) for index, size in enumerate(sizes)]


def suppress(scores: Any, boxes: Any, most: float) -> list[int]:
    """Return the indices of the boxes that overlap no box of a higher score by more than `most`, best first.

    Greedy and without regard to labels (class-agnostic non-maximum suppression).

    Args:
        scores: [n].
        boxes: [n, 4], corners.
        most: intersection over union.

    Example:
        >>> import numpy
        >>> corners = numpy.array([[0.0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]])
        >>> suppress(numpy.array([0.2, 0.9, 0.1]), corners, 0.5)
        [1, 2]
    """
    shared = overlaps(boxes, boxes)
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        if all(shared[index, other] <= most for other in kept):
            kept.append(index)
    return kept


def query_boxes(logits: Any, boxes: Any, label_names: Sequence[str]) -> list[QueryBox]:
    """Return each query's box with its best label; "no object" is no label.

    Args:
        logits: [queries, labels] or [queries, labels + 1], as those of `detections`.
        boxes: [queries, 4], centre and size in shares.
        label_names: names of the labels.
    """
    has_nothing = logits.shape[-1] == len(label_names) + 1
    shares = logits.float().softmax(-1)[..., :-1] if has_nothing else logits.float().sigmoid()
    scores, best = shares.max(-1)
    corners = to_corners(boxes.float()).clamp(0, 1)
    return [
        QueryBox(label_names[label], score, (left, top, right, bottom))
        for label, score, (left, top, right, bottom) in zip(best.tolist(), scores.tolist(), corners.tolist())
    ]


def count_mistakes(truth: Any, names: Sequence[str], predicted: Sequence[tuple[Sequence[float], str]]) -> float:
    """Return the number of objects that no box of their label overlaps by half, plus the boxes that are left over.

    Args:
        truth: [n, 4] corners.
        names: their labels.
        predicted: (corners, label) of each predicted box.
    """
    import numpy

    boxes = numpy.array([box for box, _ in predicted], dtype=float).reshape(-1, 4)
    shared = overlaps(truth, boxes)
    free = set(range(len(predicted)))
    missed = 0
    for object_index, name in enumerate(names):
        fits = [index for index in free if predicted[index][1] == name and shared[object_index, index] >= 0.5]
        if fits:
            free.remove(max(fits, key=shared[object_index].__getitem__))
        else:
            missed += 1
    return float(missed + len(free))
