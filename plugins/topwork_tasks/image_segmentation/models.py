"""Segmenters of transformers: which there are, their image processors, and their losses.

Universal segmenters (MaskFormer, Mask2Former, EoMT) answer a set of masks with labels, so they do semantic, instance
and panoptic segmentation; the others answer logits for each pixel.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from topwork import Base, Batch, CheckpointError, UsageError
from topwork_tasks._vision import images as _image
from topwork_tasks.image_segmentation import eomt as _eomt

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn

SEMANTIC = ("AutoModelForSemanticSegmentation",)
UNIVERSAL = ("AutoModelForUniversalSegmentation",)
_PROCESSORS = {
    "mask2former": "Mask2FormerImageProcessor",
    "maskformer": "MaskFormerImageProcessor",
    **dict.fromkeys(_eomt.TYPES, "EomtImageProcessor"),
}
_FOR_MASKS = "Mask2FormerImageProcessor"
#: those with batch norm on one pixel a picture (pooled context): one row alone cannot be normalised
_POOLED = ("upernet", "beit", "data2vec-vision", "mobilevit", "mobilevitv2", "mobilenet_v2", "dpt")


def is_universal(config: Any) -> bool:
    """Whether the architecture answers masks with labels."""
    return config.model_type in _PROCESSORS


def learns_masks(config: Any, options: Any) -> bool:
    """Whether the model answers masks with labels: by its architecture, or by the task head that it is given.

    Raises:
        CheckpointError: an architecture for masks with labels that topwork does not know.
        UsageError: a size for a task head that the architecture already has.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES

    if is_universal(config):
        if options.mask_head is not None:
            raise UsageError(
                f"`{config.model_type}` has a head for masks of its own",
                place="task.mask_head",
                hint="leave `mask_head` out; its size stands in the base's config (`base.changes`)",
            )
        return True
    if config.model_type in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES:
        raise CheckpointError(
            f"`{config.model_type}` is not among the architectures that image-segmentation knows",
            place="task image-segmentation",
            hint=f"choose {', '.join(_PROCESSORS)}, or any backbone: it gets a head for masks",
        )
    return options.kind != "semantic" or options.mask_head is not None


def universal(base: Base, weights: bool, changes: Mapping[str, Any]) -> nn.Module:
    """The architecture's own class for masks with labels."""
    found = base.native(*UNIVERSAL, weights=weights, **changes)
    if found is None:
        raise CheckpointError(f"transformers has no universal segmenter `{base.config.model_type}`")
    return found


# ---------------------------------------------------------------- image processors


def find_processor(rows: Any, base: Base, image_size: int | None, universal: bool) -> Any:
    """The base's own image processor when it can take masks along with pictures; else one that resizes to the size
    and normalises by the mean and deviation that the base's own has, or that the rows have.

    Args:
        universal: whether it must make masks with labels of maps.
    """
    saved = _image.saved_processor(base, image_size)
    if saved is not None and follows(saved) and (not universal or _post_processes(saved)):
        if _eomt.is_eomt(saved):
            _eomt.check_processor(saved)
        return saved
    if saved is not None:
        from PIL import Image

        details = getattr(saved, "data_config", None) or {}
        mean, deviation = (details.get("mean") or saved.image_mean), (details.get("std") or saved.image_std)
        if base.config.model_type in _eomt.TYPES:
            return _eomt.made_processor(base.config, image_size, list(mean), list(deviation))
        blank = Image.new(_image.mode_of(base.config), (64, 48))
        height, width = saved(images=blank, return_tensors="pt")["pixel_values"].shape[-2:]
        return _made(base.config, height, width, list(mean), list(deviation), universal)
    if rows is None:
        raise UsageError(
            "the base has no image processor and there are no training rows to learn one from",
            place="task image-segmentation",
            hint="give training rows, or `base.processor`",
        )
    mean, deviation, height, width = _image.learn_statistics(rows, _image.mode_of(base.config))
    if base.config.model_type in _eomt.TYPES:
        return _eomt.made_processor(base.config, image_size, mean, deviation)
    if image_size is not None:
        height = width = image_size
    else:
        height, width = _image.config_size(base.config) or (-(-height // 32) * 32, -(-width // 32) * 32)
    return _made(base.config, height, width, mean, deviation, universal)


def follows(processor: Any) -> bool:
    """Whether an image processor takes masks along."""
    return "segmentation_maps" in inspect.signature(type(processor).preprocess).parameters


def _post_processes(processor: Any) -> bool:
    return hasattr(processor, "post_process_panoptic_segmentation")


def _made(config: Any, height: int, width: int, mean: list[float], deviation: list[float], universal: bool) -> Any:
    import transformers

    kind = getattr(
        transformers, _PROCESSORS.get(config.model_type, _FOR_MASKS if universal else "SegformerImageProcessor")
    )
    # a backbone may take one size only, and transformers' would be rounded up to a multiple of 32
    exact = {"size_divisor": 1} if universal and config.model_type not in _PROCESSORS else {}
    return kind(
        size={"height": height, "width": width},
        **exact,
        image_mean=mean,
        image_std=deviation,
        do_normalize=True,
        do_reduce_labels=False,
    )


def semantic_inputs(processor: Any, image: Any, labels: numpy.ndarray | None) -> dict[str, torch.Tensor]:
    """`pixel_values` [channels, h, w], and `labels` [h, w] when there is a map of them."""
    if labels is None:
        return {"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"][0]}
    found = processor(images=image, segmentation_maps=labels, do_reduce_labels=False, return_tensors="pt")
    return {"pixel_values": found["pixel_values"][0], "labels": found["labels"][0]}


def universal_inputs(
    processor: Any, image: Any, ids: numpy.ndarray | None = None, labels: Mapping[int, int] | None = None
) -> dict[str, torch.Tensor]:
    """`pixel_values`, `pixel_mask` (not of EoMT), and with a map of ids also `mask_labels` bool [n, h, w] and
    `class_labels` [n].

    Args:
        ids: 0 for nothing.
        labels: the label number of each id.
    """
    if _eomt.is_eomt(processor):
        return _eomt.inputs(processor, image, ids, labels or {})
    if ids is None:
        found = processor(images=image, return_tensors="pt")
        return {name: found[name][0] for name in ("pixel_values", "pixel_mask")}
    found = processor(
        images=image,
        segmentation_maps=ids,
        instance_id_to_semantic_id=dict(labels or {}),
        ignore_index=0,
        do_reduce_labels=False,
        return_tensors="pt",
    )
    inputs = {name: found[name][0] for name in ("pixel_values", "pixel_mask", "mask_labels", "class_labels")}
    inputs["mask_labels"] = inputs["mask_labels"].bool()
    return inputs


# ---------------------------------------------------------------- losses


def native_loss(model: Any, batch: Batch, ignored: int) -> Any:
    """The loss of a semantic segmenter of transformers; None where the class cannot give one.

    A training batch of one row is doubled where batch norm sees one pixel a picture: its loss is the same. A batch
    that has no pixel that counts has the loss 0.
    """
    inputs = _image.model_tensors(batch, model)
    labels = inputs.pop("labels")
    if model.training and len(labels) == 1 and _config(model).model_type in _POOLED:
        inputs = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
        labels = labels.repeat(2, 1, 1)
    config = _config(model)
    if not (labels != ignored).any():
        return model(**inputs).logits.float().sum() * 0.0
    if not _has_loss(config):
        return None
    return model(**inputs, labels=labels).loss


def averages_over_pixels(config: Any, labels: int) -> bool:
    """Whether the loss of a semantic segmenter is a mean over the pixels of the batch that count; else over images."""
    return _has_loss(config) and not (config.model_type == "segformer" and labels == 1)


def _has_loss(config: Any) -> bool:
    """Whether the class gives a loss: that of DPT wants its auxiliary head."""
    return config.model_type != "dpt" or config.use_auxiliary_head


def _config(model: Any) -> Any:
    return getattr(model, "module", model).config


def universal_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The loss of a universal segmenter. Outside training the points at which Mask2Former compares masks are drawn
    from a seed of the batch's own rows, so the same rows have the same loss."""
    inputs = _image.model_tensors(batch, model)
    inputs["mask_labels"] = [mask.to(inputs["pixel_values"].dtype) for mask in inputs["mask_labels"]]
    if model.training:
        return model(**inputs).loss
    with _drawn_from(sum(item.extra["seed"] for item in batch.items), inputs["pixel_values"].device):
        return model(**inputs).loss


@contextmanager
def _drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield
