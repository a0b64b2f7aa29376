"""The truth of a row of image-segmentation as the options say: label numbers, segments, targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import DataError, Row
from topwork_tasks.image_segmentation.labels import Numbers, uses_objects
from topwork_tasks.image_segmentation.rows import (
    Segments,
    flat,
    instances_of,
    labels_of_segments,
    open_map,
    panoptic_of,
    tells_segments,
)

if TYPE_CHECKING:
    import numpy

    from topwork_tasks.image_segmentation.options import ImageSegmentationOptions


class Truth:
    """Reads the truth of rows.

    Args:
        options: of the task.
        values: what the task learned: `label_names`, `declared`, `reduce_labels`.
        universal: whether the model learns masks with labels, also of semantic truth.
    """

    def __init__(self, options: ImageSegmentationOptions, values: Mapping[str, Any], universal: bool) -> None:
        self.options, self.universal = options, universal
        self.reduce: bool = values["reduce_labels"]
        self.numbers = Numbers(values["label_names"], values["declared"])

    def labels(self, row: Row, size: tuple[int, int], position: int | None = None) -> numpy.ndarray:
        """int32 [height, width]: output numbers, `ignore_index` for what does not count."""
        self._present(row, position)
        mask = open_map(row["mask"], position, "mask", size)
        if tells_segments(row, mask):
            segments = panoptic_of(row, position, size, self.numbers, self.options.ignore_index)
            return labels_of_segments(segments, self.options.ignore_index)
        labels = flat(mask, position, "mask")
        return self.numbers.of_map(labels, self.options.ignore_index, self.reduce, position)

    def segments(self, row: Row, size: tuple[int, int], position: int | None = None) -> Segments:
        """Instances, or panoptic segments."""
        ignored = self.options.ignore_index
        if self.options.kind == "instance" and uses_objects(row, position):
            return instances_of(row, position, size, self.numbers, ignored)
        if self.options.kind == "instance" and row.get("segments_info") is not None and row.get("instances") is None:
            hint = "set `kind: panoptic`, or map `instances`"
            raise DataError("tells panoptic segments", row=position, column="segments_info", hint=hint)
        if row.get("mask") is None and self.options.kind == "instance":
            hint = "give `mask` with `instances`, or `objects` with `segmentation`: `data.columns`"
            raise DataError("is missing", row=position, column="mask", hint=hint)
        self._present(row, position)
        make = instances_of if self.options.kind == "instance" else panoptic_of
        return make({**row, "objects": None}, position, size, self.numbers, ignored)

    @staticmethod
    def _present(row: Row, position: int | None) -> None:
        if "mask" not in row:
            raise DataError("is missing", row=position, column="mask", hint="map it in `data.columns`")

    def target(self, row: Row, size: tuple[int, int], position: int | None) -> tuple[numpy.ndarray, dict[int, int]]:
        """What the model is to learn, as a map; for universal segmenters a map of ids, 0 for nothing, and the label of
        each id."""
        if self.options.kind == "semantic":
            labels = self.labels(row, size, position)
            if not self.universal:
                return labels, {}
            ids = (labels + 1) * (labels != self.options.ignore_index)
            return ids, {number + 1: number for number in range(len(self.numbers.names))}
        segments = self.segments(row, size, position)
        ids = segments.ids.copy()
        for place, crowd in enumerate(segments.crowd, 1):
            if crowd:
                ids[ids == place] = 0
        return ids, dict(enumerate(segments.labels, 1))
