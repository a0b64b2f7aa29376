"""Options of depth-estimation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from topwork_tasks._vision.augmentation import DEPTH_PARTS, Augment, augment_help
from topwork_tasks._vision.inputs import ImageOptions
from topwork_tasks.depth_estimation.depth_maps import Loss
from topwork_tasks.depth_estimation.metric import Align


class DepthEstimationOptions(ImageOptions):
    """Options of depth-estimation."""

    loss: Loss = Field(
        "silog", description="silog and l1: depth in the rows' unit; scale_shift_invariant: up to scale and shift"
    )
    silog_share: float = Field(0.5, ge=0, le=1, description="of the squared mean in silog; 1: scale does not count")
    depth_scale: PositiveFloat | None = Field(
        None,
        description="the data's numbers are divided by it: 1000 for millimetres, 256 for KITTI, 5000 for TUM; by "
        "default what the rows' `depth_scale` says, else 1",
    )
    hole_values: list[float] = Field(
        default_factory=list, description="numbers in the data that mean no depth, such as 65535; 0 always does"
    )
    min_depth: PositiveFloat = Field(1e-3, description="metrics cut predictions to it")
    max_depth: PositiveFloat | None = Field(
        None, description="deeper pixels do not count; the generic task head then ends in a sigmoid times this"
    )
    align: Align = Field("none", description="metrics: fit predictions to the truth of each picture first")
    decoder: Literal["pyramid", "linear", "dpt"] = Field(
        "pyramid", description="of the generic task head: all maps joined; one layer on the last map; DPT's"
    )
    augment: Augment = Field("none", description=augment_help(DEPTH_PARTS))
    write_as: Literal["npy", "png16"] = Field("npy", description="files of predictions")
    png_scale: PositiveFloat = Field(1000.0, description="png16: depth is multiplied by it")
