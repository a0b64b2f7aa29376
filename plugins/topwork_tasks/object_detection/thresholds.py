"""The least score of a box, chosen on rows with their truth: `choose_threshold`."""

from __future__ import annotations

from typing import Any

import numpy as np

from topwork_tasks._classification.thresholds import best_threshold
from topwork_tasks.object_detection.metric import CocoMetric

#: overlap from which on a box is found, as in PASCAL VOC
_OVERLAP = 0.5


def choose_threshold(metric: CocoMetric) -> float:
    """Return the score with the largest F1 of boxes at an overlap of .5, over all images and labels.

    Boxes are matched as COCO does: the best score first, each with the free truth of its label that it overlaps most.
    What lies on a crowd counts neither way.

    Args:
        metric: that was given rows.
    """
    scores: list[float] = []
    right: list[bool] = []
    positives = 0
    for (true_boxes, true_labels, crowd, _), (box_scores, labels, boxes) in metric.rows:
        crowd = np.asarray(crowd, dtype=bool)
        positives += int((~crowd).sum())
        free = ~crowd
        for index in np.argsort(-box_scores, kind="stable"):
            overlaps = _overlaps(boxes[index], true_boxes) * (true_labels == labels[index])
            match = int(np.argmax(np.where(free, overlaps, 0.0))) if len(overlaps) else 0
            hit = bool(len(overlaps)) and bool(free[match]) and overlaps[match] >= _OVERLAP
            if not hit and (overlaps[crowd] >= _OVERLAP).any():
                continue
            if hit:
                free[match] = False
            scores.append(float(box_scores[index]))
            right.append(hit)
    return best_threshold(np.array(scores), np.array(right, dtype=int), positives)


def _overlaps(box: Any, others: Any) -> Any:
    """Return the intersection over union of a box with others, as corners; [others]."""
    if not len(others):
        return np.zeros(0)
    others = np.asarray(others, dtype=float).reshape(-1, 4)
    inner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = inner.clip(min=0).prod(-1)
    area, areas = np.prod(box[2:] - box[:2]), (others[:, 2:] - others[:, :2]).prod(-1)
    return common / np.maximum(area + areas - common, 1e-12)
