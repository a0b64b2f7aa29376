"""The options of image-segmentation, and the truth of a row as they say: label numbers, segments, targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import DataError, Row, TaskOptions
from topwork_tasks import _image
from topwork_tasks._segmentation_labels import Numbers, uses_objects
from topwork_tasks._segmentation_rows import Segments, flat, instances_of, open_map, panoptic_of

if TYPE_CHECKING:
    import numpy


class ImageSegmentationOptions(TaskOptions):
    """Options of image-segmentation."""

    kind: Literal["semantic", "instance", "panoptic"] = Field("semantic", description="what is told apart")
    label_names: list[str] | None = Field(None, description="what the masks' numbers stand for, in order")
    ignore_index: NonNegativeInt = Field(255, description="number in a mask that does not count")
    reduce_labels: bool | None = Field(
        None, description="0 does not count and the other numbers move down by one; by default as the image processor"
    )
    stuff: list[str] = Field(default_factory=list, description="panoptic: labels whose segments are one")
    decoder: Literal["pyramid", "linear"] = Field(
        "pyramid", description="of the generic task head: all maps joined, or one layer on the last map"
    )
    dice: float = Field(1.0, ge=0, description="share of the Dice loss beside cross-entropy, for the generic task head")
    augment: _image.Augment = Field("none", description=_image.AUGMENT_HELP)
    image_size: PositiveInt | None = Field(None, description="pixels; for bases without an image processor")
    threshold: float = Field(0.9, ge=0, lt=1, description="least score of a segment in a prediction")
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="least probability of a segment's pixel")
    overlap_threshold: float = Field(
        0.5, ge=0, lt=1, description="panoptic: least share of its pixels that a segment must keep"
    )


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
        labels = flat(open_map(row["mask"], position, "mask", size), position, "mask")
        return self.numbers.of_map(labels, self.options.ignore_index, self.reduce, position)

    def segments(self, row: Row, size: tuple[int, int], position: int | None = None) -> Segments:
        """Instances, or panoptic segments."""
        ignored = self.options.ignore_index
        if self.options.kind == "instance" and uses_objects(row):
            return instances_of(row, position, size, self.numbers, ignored)
        self._present(row, position)
        make = instances_of if self.options.kind == "instance" else panoptic_of
        return make({**row, "objects": None}, position, size, self.numbers, ignored)

    @staticmethod
    def _present(row: Row, position: int | None) -> None:
        if "mask" not in row:
            raise DataError("is missing", row=position, column="mask", mend="map it in `data.columns`")

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
