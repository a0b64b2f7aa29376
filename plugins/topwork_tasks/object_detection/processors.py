"""Which conventions a detector follows, and which image processor goes with it: one of the other family reads its
outputs wrong without a word.
"""

from __future__ import annotations

from typing import Any

from topwork import Base, UsageError
from topwork_tasks._vision import images as _image

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
#: those with a softmax over the labels and "no object"; the others have a sigmoid for each label
_SOFTMAX = ("detr", "table-transformer", "yolos")
_SOFTMAX_PROCESSORS = ("DetrImageProcessor", "YolosImageProcessor")
#: those that are told which pixels are padding
_MASKED = ("detr", "table-transformer", "conditional_detr", "dab-detr", "deformable_detr")
#: most boxes of a picture, where a query may stand for several labels
MOST = 100


def family(config: Any) -> str:
    """The model type whose conventions the detector follows: its own, or "detr" for the generic task head."""
    return config.model_type if is_native(config) else "detr"


def is_native(config: Any) -> bool:
    """Whether the architecture has a detector of its own, in transformers or in the checkpoint's code."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as known

    return config.model_type in known or "AutoModelForObjectDetection" in (getattr(config, "auto_map", None) or {})


def learned_processor(rows: Any, base: Base, image_size: int | None) -> Any:
    """The detector's own kind of image processor: one size, normalised by the rows' mean and deviation."""
    import transformers

    if rows is None:
        raise UsageError(
            "the base has no image processor and there are no training rows to learn one from",
            place="task object-detection",
            hint="give training rows, or `base.processor`",
        )
    mean, deviation, height, width = _image.learn_statistics(rows, _image.mode_of(base.config))
    if image_size is not None:
        height = width = image_size
    else:
        height, width = _image.config_size(base.config) or (-(-height // 32) * 32, -(-width // 32) * 32)
    kind = getattr(transformers, _PROCESSORS.get(family(base.config), "RTDetrImageProcessor"))
    return kind(size={"height": height, "width": width}, image_mean=mean, image_std=deviation, do_normalize=True)


def backbone_processor(base: Base, image_size: int | None) -> Any | None:
    """DETR's image processor with the statistics of the one that the backbone came with, or None: what crops the middle
    out of a picture, as those of classifiers do, would cut objects off and move all boxes."""
    import transformers

    saved = base.processor("image_processor")
    if saved is None or hasattr(saved, "post_process_object_detection"):
        return saved
    details = getattr(saved, "data_config", None) or {}
    mean, deviation = details.get("mean") or saved.image_mean, details.get("std") or saved.image_std
    if image_size is not None:
        height = width = image_size
    else:
        height, width = _processor_size(saved) or _image.config_size(base.config) or (224, 224)
    normalise = bool(details) or bool(getattr(saved, "do_normalize", True))
    return transformers.DetrImageProcessor(
        size={"height": height, "width": width},
        image_mean=list(mean),
        image_std=list(deviation),
        do_normalize=normalise,
    )


def _processor_size(processor: Any) -> tuple[int, int] | None:
    """Height and width that a processor makes; of one that keeps proportions a square of the shorter edge."""
    cropped = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = dict(cropped or getattr(processor, "size", None) or {})
    edge = size.get("shortest_edge")
    found = size.get("height", edge), size.get("width", edge)
    return (int(found[0]), int(found[1])) if found[0] and found[1] else None


def check_processor(config: Any, processor: Any) -> None:
    """transformers' pipeline reads a detector's outputs through its image processor: one of the other family gives
    wrong scores without a word.

    Raises:
        UsageError: the processor is of the other family.
    """
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    if not hasattr(processor, "post_process_object_detection"):
        return
    if (name in _SOFTMAX_PROCESSORS) != (family(config) in _SOFTMAX):
        raise UsageError(
            f"{name} does not belong to `{config.model_type}`: it would read its outputs wrong",
            place="base.processor",
            hint=f"use a {_PROCESSORS.get(family(config), 'RTDetrImageProcessor')}",
        )


def reads_mask(config: Any) -> bool:
    """Whether the detector is told which pixels are padding."""
    return family(config) in _MASKED


def most_boxes(processor: Any, queries: int) -> int:
    """How many boxes a picture has at most, where a query may stand for several labels: as the processors have it."""
    return queries if type(processor).__name__.startswith("RTDetr") else MOST
