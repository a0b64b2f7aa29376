"""Options of object-detection."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from topwork_tasks._classification.labels import LABEL_NAMES_HELP, LabelNames
from topwork_tasks._vision.augmentation import BOX_PARTS, Augment, augment_help
from topwork_tasks._vision.boxes import BOX_FORMAT_HELP, BoxFormat
from topwork_tasks._vision.inputs import ImageOptions


class DetrHeadOptions(BaseModel):
    """Size of DETR's transformer on a backbone that has no detector of its own; as large as in the paper by default."""

    model_config = ConfigDict(extra="forbid")

    queries: PositiveInt = Field(100, description="most objects that can be found in an image")
    encoder_layers: NonNegativeInt = 6
    decoder_layers: PositiveInt = 6
    width: PositiveInt = Field(256, description="of the transformer's vectors: a multiple of 4 and of attention_heads")
    attention_heads: PositiveInt = 8
    feed_forward: PositiveInt = Field(2048, description="width inside the layers")
    dropout: float = Field(0.1, ge=0, lt=1)
    auxiliary_loss: bool = Field(True, description="every decoder layer is taught, not only the last")

    @model_validator(mode="after")
    def _divides(self) -> DetrHeadOptions:
        if self.width % 4 or self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is no multiple of 4 and of {self.attention_heads} attention heads")
        return self


class ObjectDetectionOptions(ImageOptions):
    """Options of object-detection."""

    box_format: BoxFormat = Field("coco", description=BOX_FORMAT_HELP)
    bad_boxes: Literal["refuse", "drop"] = Field(
        "refuse",
        description="boxes without area or outside their image; boxes that leave it in part are clipped",
    )
    label_names: LabelNames = Field(None, description=LABEL_NAMES_HELP)
    augment: Augment = Field("none", description=augment_help(BOX_PARTS))
    detr_head: DetrHeadOptions | None = Field(
        None, description="size of the task head on a base without a detector of its own; as in DETR's paper by default"
    )
    threshold: float = Field(0.5, ge=0, lt=1, description="least score of a box in a prediction; metrics use them all")
    suppress: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of two predicted boxes that overlap by more (intersection over union), whatever their labels, "
        "keep that with the higher score; metrics too",
    )
