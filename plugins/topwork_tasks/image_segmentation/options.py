"""The options of image-segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from topwork_tasks._classification.labels import LabelNames
from topwork_tasks._vision.augmentation import MAP_PARTS, Augment, augment_help
from topwork_tasks._vision.inputs import ImageOptions


class MaskHeadOptions(BaseModel):
    """Size of Mask2Former's decoders on a backbone that has none of its own; by default as large as in the paper."""

    model_config = ConfigDict(extra="forbid")

    queries: PositiveInt = Field(100, description="most segments that can be found in an image")
    encoder_layers: PositiveInt = Field(6, description="of deformable attention over three of the maps")
    decoder_layers: PositiveInt = 9
    width: PositiveInt = Field(256, description="of the vectors: a multiple of 32 and of attention_heads")
    attention_heads: PositiveInt = 8
    feed_forward: PositiveInt = Field(2048, description="width inside the decoder's layers")
    points: PositiveInt = Field(12544, description="pixels at which a mask is compared with the truth")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> MaskHeadOptions:
        if self.width % 32 or self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is no multiple of 32 and of {self.attention_heads} attention heads")
        return self


class ImageSegmentationOptions(ImageOptions):
    """Options of image-segmentation."""

    kind: Literal["semantic", "instance", "panoptic"] = Field("semantic", description="what is told apart")
    label_names: LabelNames = Field(
        None, description="what the masks' numbers stand for, in order; or a mapping: {0: background, 255: cat}"
    )
    colours: dict[str, tuple[int, int, int]] | None = Field(
        None,
        description="colour table of colour-coded masks: label name -> [red, green, blue]; names that are not in "
        "`label_names` do not count",
    )
    ignore_index: NonNegativeInt = Field(255, description="number in a mask that does not count")
    reduce_labels: bool | None = Field(
        None, description="0 does not count and the other numbers move down by one; by default as the image processor"
    )
    stuff: list[str] | None = Field(
        None, description="panoptic: labels whose segments are one; by default those whose `isthing` is 0 in the data"
    )
    decoder: Literal["pyramid", "linear"] = Field(
        "pyramid", description="of the generic task head: all maps joined, or one layer on the last map"
    )
    dice: float = Field(1.0, ge=0, description="share of the Dice loss beside cross-entropy, for the generic task head")
    mask_head: MaskHeadOptions | None = Field(
        None, description="size of the head of masks with labels, for bases that have none; semantic: use that head"
    )
    augment: Augment = Field("none", description=augment_help(MAP_PARTS))
    threshold: float = Field(0.9, ge=0, lt=1, description="least score of a segment in a prediction")
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="least probability of a segment's pixel")
    overlap_threshold: float = Field(
        0.5, ge=0, lt=1, description="panoptic: least share of its pixels that a segment must keep"
    )

    @field_validator("colours")
    @classmethod
    def _distinct(cls, value: dict[str, tuple[int, int, int]] | None) -> dict[str, tuple[int, int, int]] | None:
        for name, colour in (value or {}).items():
            if not all(0 <= part <= 255 for part in colour):
                raise ValueError(f"the colour {list(colour)} of {name} is not within 0 to 255")
        if value is not None and len(set(value.values())) < len(value):
            raise ValueError("two labels have one colour")
        return value
