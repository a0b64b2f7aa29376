"""Truth of a row of image-segmentation as the options say: label indices, segments, targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import DataError, Row
from topwork_tasks._vision.frames import frame_orientation
from topwork_tasks.image_segmentation.colours import RowColours
from topwork_tasks.image_segmentation.labels import LabelNumbers, uses_objects
from topwork_tasks.image_segmentation.masks import (
    Segments,
    instances_of,
    labels_of_segments,
    one_channel,
    open_row_mask,
    panoptic_of,
    tells_segments,
    values_of_colours,
)

if TYPE_CHECKING:
    import numpy

    from topwork_tasks.image_segmentation.options import ImageSegmentationOptions


class SegmentationTruth:
    """Reader of the truth of rows.

    Args:
        options: of the task.
        values: the task's state: `label_names`, `declared`, `reduce_labels`.
        universal: whether the model learns masks with labels, also of semantic truth.
    """

    def __init__(self, options: ImageSegmentationOptions, values: Mapping[str, Any], universal: bool) -> None:
        self.options, self.universal = options, universal
        self.reduce: bool = values["reduce_labels"]
        self.colours = RowColours(options, values["label_names"], values.get("colours"))
        self.numbers = LabelNumbers(values["label_names"], values["declared"])

    def labels(self, row: Row, size: tuple[int, int], index: int | None = None) -> numpy.ndarray:
        """Return label indices, int32 [height, width]; `ignore_index` where a pixel does not count."""
        self._present(row, index)
        frame_orientation(row, index, size)  # refuses a declared size that does not fit
        colours = self.colours.of(row, index)
        mask = open_row_mask(row, index, "mask", size, colours=colours is not None)
        if tells_segments(row, mask):
            segments = panoptic_of(row, index, size, self.numbers, self.options.ignore_index)
            return labels_of_segments(segments, self.options.ignore_index)
        if colours is self.colours.learned and mask.ndim == 2:
            mask = mask[..., None].repeat(3, axis=-1)  # a mask that is grey among coloured ones
        if colours is not None and mask.ndim == 3:
            return values_of_colours(mask, colours, self.numbers.names, self.options.ignore_index, index)
        return self.numbers.of_map(one_channel(mask, index, "mask"), self.options.ignore_index, self.reduce, index)

    def check_declared(self, row: Row, size: tuple[int, int]) -> None:
        """Check what a row declares of its image and its mask.

        Raises:
            DataError: a size that does not fit the image, a damaged table of colours.
        """
        frame_orientation(row, None, size)
        self.colours.of(row)

    def segments(self, row: Row, size: tuple[int, int], index: int | None = None) -> Segments:
        """Return instances, or panoptic segments."""
        ignored = self.options.ignore_index
        if self.options.kind == "instance" and uses_objects(row, index):
            return instances_of(row, index, size, self.numbers, ignored)
        if self.options.kind == "instance" and row.get("segments_info") is not None and row.get("instances") is None:
            hint = "set `kind: panoptic`, or map `instances`"
            raise DataError("tells panoptic segments", row=index, column="segments_info", hint=hint)
        if row.get("mask") is None and self.options.kind == "instance":
            hint = "give `mask` with `instances`, or `objects` with `segmentation`: `data.columns`"
            raise DataError("is missing", row=index, column="mask", hint=hint)
        self._present(row, index)
        read = instances_of if self.options.kind == "instance" else panoptic_of
        return read({**row, "objects": None}, index, size, self.numbers, ignored)

    @staticmethod
    def _present(row: Row, index: int | None) -> None:
        if "mask" not in row:
            raise DataError("is missing", row=index, column="mask", hint="map it in `data.columns`")

    def target(self, row: Row, size: tuple[int, int], index: int | None) -> tuple[numpy.ndarray, dict[int, int]]:
        """Return the model's target as a map, [height, width].

        For universal segmenters it is a map of ids, 0 for nothing, and the label of each id.
        """
        if self.options.kind == "semantic":
            labels = self.labels(row, size, index)
            if not self.universal:
                return labels, {}
            ids = (labels + 1) * (labels != self.options.ignore_index)
            return ids, {label + 1: label for label in range(len(self.numbers.names))}
        segments = self.segments(row, size, index)
        ids = segments.ids.copy()
        for identity, crowd in enumerate(segments.crowd, 1):
            if crowd:
                ids[ids == identity] = 0
        return ids, dict(enumerate(segments.labels, 1))
