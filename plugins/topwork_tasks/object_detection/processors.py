"""Families of detectors and their image processors.

A processor of the other family reads a detector's outputs wrong without an error, so `check_processor` refuses it.
"""

from __future__ import annotations

from typing import Any

from topwork import Base, UsageError
from topwork_tasks._vision.inputs import config_size, processor_statistics

#: model type -> name of its image processor; the others take RT-DETR's
_PROCESSORS = {
    "detr": "DetrImageProcessor",
    "table-transformer": "DetrImageProcessor",
    "yolos": "YolosImageProcessor",
    "conditional_detr": "ConditionalDetrImageProcessor",
    "dab-detr": "ConditionalDetrImageProcessor",
    "deformable_detr": "DeformableDetrImageProcessor",
    "lw_detr": "DeformableDetrImageProcessor",
}
#: model types with a softmax over the labels and "no object"; the others have a sigmoid for each label
_SOFTMAX = ("detr", "table-transformer", "yolos")
_SOFTMAX_PROCESSORS = ("DetrImageProcessor", "YolosImageProcessor")
#: model types that take a mask of padding
_MASKED = ("detr", "table-transformer", "conditional_detr", "dab-detr", "deformable_detr")
#: most boxes of an image, where a query may stand for several labels
MOST_BOXES = 100


def family(config: Any) -> str:
    """Return the model type whose conventions a detector follows: its own, or "detr" for the generic task head."""
    return config.model_type if is_native(config) else "detr"


def has_softmax(config: Any) -> bool:
    """Return whether a detector reads its logits by a softmax over labels and "no object", not by sigmoids."""
    return family(config) in _SOFTMAX


def is_native(config: Any) -> bool:
    """Return whether the architecture has a detector of its own, in transformers or in the checkpoint's code."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as known

    return config.model_type in known or "AutoModelForObjectDetection" in (getattr(config, "auto_map", None) or {})


def make_processor(config: Any, height: int, width: int, mean: list[float], deviation: list[float]) -> Any:
    """Make the detector's own kind of image processor, for one size."""
    import transformers

    kind = getattr(transformers, _PROCESSORS.get(family(config), "RTDetrImageProcessor"))
    return kind(size={"height": height, "width": width}, image_mean=mean, image_std=deviation, do_normalize=True)


def backbone_processor(base: Base, image_size: int | None) -> Any | None:
    """Make DETR's image processor with the statistics of the backbone's own, None without one.

    A processor that crops the middle out of an image, as those of classifiers do, would cut objects off and move boxes.
    """
    import transformers

    saved = base.processor("image_processor")
    if saved is None or hasattr(saved, "post_process_object_detection"):
        return saved
    mean, deviation = processor_statistics(saved)
    if image_size is not None:
        height = width = image_size
    else:
        height, width = _processor_size(saved) or config_size(base.config) or (224, 224)
    normalise = bool(getattr(saved, "data_config", None)) or bool(getattr(saved, "do_normalize", True))
    return transformers.DetrImageProcessor(
        size={"height": height, "width": width},
        image_mean=mean,
        image_std=deviation,
        do_normalize=normalise,
    )


def _processor_size(processor: Any) -> tuple[int, int] | None:
    """Return height and width of a processor's images; of one that keeps proportions a square of the shorter edge."""
    cropped = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = dict(cropped or getattr(processor, "size", None) or {})
    edge = size.get("shortest_edge")
    height, width = size.get("height", edge), size.get("width", edge)
    return (int(height), int(width)) if height and width else None


def check_processor(config: Any, processor: Any) -> None:
    """Refuse an image processor of the other family: transformers' pipeline would read wrong scores through it.

    Raises:
        UsageError: the processor is of the other family.
    """
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    if not hasattr(processor, "post_process_object_detection"):
        return
    if (name in _SOFTMAX_PROCESSORS) != has_softmax(config):
        raise UsageError(
            f"{name} does not belong to `{config.model_type}`: it would read its outputs wrong",
            place="base.processor",
            hint=f"use a {_PROCESSORS.get(family(config), 'RTDetrImageProcessor')}",
        )


def reads_mask(config: Any) -> bool:
    """Return whether the detector takes a mask of padding."""
    return family(config) in _MASKED


def most_boxes(processor: Any, queries: int) -> int:
    """Return the most boxes of an image, where a query may stand for several labels: as the processors have it."""
    return queries if type(processor).__name__.startswith("RTDetr") else MOST_BOXES
