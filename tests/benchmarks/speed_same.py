"""When two predictions of a row are the same: for `predict_speed.py`, the pipeline's and topwork's, or float32's and
bf16's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def by(read: Callable[[Any], Any]) -> Callable[[Any, Any], bool]:
    """Equal in what `read` takes from a prediction."""
    return lambda mine, theirs: read(mine) == read(theirs)


def label_of(found: Any) -> str:
    return (found[0] if isinstance(found, list) else found)["label"]


def entities_of(found: Any) -> list[tuple]:
    return [(entry["entity_group"], entry["word"], entry["start"], entry["end"]) for entry in found]


def span_of(found: Any) -> tuple:
    return found["start"], found["end"], found["answer"]


def same_tags(mine: Any, narrow: Any) -> bool:
    """Of the tags of a text's words 95 in 100, and all but one: a new task head is unsure of some words."""
    wrong = sum(one != other for one, other in zip(mine.tags, narrow.tags))
    return wrong <= max(1, 0.05 * len(mine.tags))


def same_answer(mine: Any, narrow: Any) -> bool:
    """The same span, or a tie: a new task head is unsure of some."""
    return span_of(mine) == span_of(narrow) or abs(mine["score"] - narrow["score"]) < 0.02


def same_boxes(mine: Any, theirs: Any, pixels: float = 1, score: float = 1e-3) -> bool:
    """The same labels in the same order, scores and boxes close."""
    if [entry["label"] for entry in mine] != [entry["label"] for entry in theirs]:
        return False
    return all(
        abs(one["score"] - other["score"]) <= score
        and all(abs(one["box"][side] - other["box"][side]) <= pixels for side in other["box"])
        for one, other in zip(mine, theirs)
    )


def same_masks(mine: Any, theirs: Any, share: float = 0.002) -> bool:
    """The same labels, and in each mask almost every pixel."""
    import numpy

    if [entry["label"] for entry in mine] != [entry["label"] for entry in theirs]:
        return False
    pairs = [(numpy.asarray(one["mask"]), numpy.asarray(other["mask"])) for one, other in zip(mine, theirs)]
    return all(numpy.mean((one > 0) != (other > 0)) <= share for one, other in pairs)


def same_depths(mine: Any, theirs: Any, share: float = 1e-4) -> bool:
    """Depths that differ by a small share of the largest one."""
    import numpy

    one, other = (numpy.asarray(found["predicted_depth"]) for found in (mine, theirs))
    other = other.clip(min=0)
    return one.shape == other.shape and float(numpy.abs(one - other).max()) <= share * float(other.max() + 1e-6)
