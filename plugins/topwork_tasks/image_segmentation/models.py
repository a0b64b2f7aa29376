"""Segmenters of transformers, their image processors, inputs and losses.

Universal segmenters (MaskFormer, Mask2Former, EoMT) answer a set of masks with labels, so they do semantic, instance
and panoptic segmentation; the others answer logits for each pixel. EoMT (Kerssies et al. 2025, arXiv 2503.19108), a
plain vision transformer, takes squares of one size: its image processor keeps the shape of an image and pads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from topwork import Base, Batch, CheckpointError, UsageError
from topwork_tasks._vision.batches import model_tensors
from topwork_tasks._vision.divisors import counting_alone
from topwork_tasks._vision.images import mode_of
from topwork_tasks._vision.inputs import learn_processor, processor_statistics, saved_processor, size_changes

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn

SEMANTIC = ("AutoModelForSemanticSegmentation",)
UNIVERSAL = ("AutoModelForUniversalSegmentation",)
_EOMT = ("eomt", "eomt_dinov3")
_PROCESSORS = {
    "mask2former": "Mask2FormerImageProcessor",
    "maskformer": "MaskFormerImageProcessor",
    **dict.fromkeys(_EOMT, "EomtImageProcessor"),
}
_FOR_MASKS = "Mask2FormerImageProcessor"
#: model types with batch norm on one pixel an image (pooled context): a single row cannot be normalised
_POOLED = ("upernet", "beit", "data2vec-vision", "mobilevit", "mobilevitv2", "mobilenet_v2", "dpt")


def is_universal(config: Any) -> bool:
    """Return whether the architecture answers masks with labels."""
    return config.model_type in _PROCESSORS


def learns_masks(config: Any, options: Any) -> bool:
    """Return whether the model answers masks with labels, by its architecture or by its task head.

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


def build_universal(base: Base, weights: bool, changes: Mapping[str, Any]) -> nn.Module:
    """Build the architecture's own class for masks with labels."""
    model = base.native(*UNIVERSAL, weights=weights, **changes)
    if model is None:
        raise CheckpointError(f"transformers has no universal segmenter `{base.config.model_type}`")
    return model


# ---------------------------------------------------------------- image processors


def find_processor(
    rows: Any, base: Base, options: Any, pixel_range: tuple[float, float] | None, universal: bool
) -> Any:
    """Return the base's own image processor where it can process masks with images; else a new one.

    The new one resizes to the size and normalises by the mean and deviation of the base's own, or of the rows.

    Args:
        rows: training rows, or None.
        base: the base.
        options: of the task.
        pixel_range: that images deeper than 8 bits are scaled from.
        universal: whether it must make masks with labels of maps.
    """
    saved = saved_processor(base, options.image_size)
    if saved is not None and follows(saved) and (not universal or hasattr(saved, "post_process_panoptic_segmentation")):
        if is_eomt(saved):
            _check_eomt_processor(saved)
        return saved

    def make(height: int, width: int, mean: list[float], deviation: list[float]) -> Any:
        if base.config.model_type in _EOMT:
            return _make_eomt_processor(base.config, options.image_size, mean, deviation)
        return _make_processor(base.config, height, width, mean, deviation, universal)

    if saved is None:
        processor = learn_processor(rows, base, options, pixel_range, make, multiple=32)
        size_changes(base, options.image_size)
        return processor
    from PIL import Image

    blank = Image.new(mode_of(base.config), (64, 48))
    height, width = saved(images=blank, return_tensors="pt")["pixel_values"].shape[-2:]
    return make(height, width, *processor_statistics(saved))


def follows(processor: Any) -> bool:
    """Return whether an image processor processes masks with images."""
    return "segmentation_maps" in inspect.signature(type(processor).preprocess).parameters


def _make_processor(
    config: Any, height: int, width: int, mean: list[float], deviation: list[float], universal: bool
) -> Any:
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


def is_eomt(processor: Any) -> bool:
    """Return whether an image processor is EoMT's."""
    return type(processor).__name__.startswith("EomtImageProcessor")


def _check_eomt_processor(processor: Any) -> None:
    """Refuse an image processor that divides images, as those of semantic checkpoints do.

    Raises:
        UsageError: also for one that does not pad, for the network takes squares only.
    """
    if getattr(processor, "do_split_image", False) or not getattr(processor, "do_pad", False):
        raise UsageError(
            "the image processor divides images, or does not pad them to a square",
            place="base.processor",
            hint="save it with `do_split_image: false` and `do_pad: true`",
        )


def _make_eomt_processor(config: Any, image_size: int | None, mean: list[float], deviation: list[float]) -> Any:
    """Make an image processor for the network's one size.

    Raises:
        UsageError: `image_size` is another size.
    """
    from transformers import EomtImageProcessor

    side = int(config.image_size)
    if image_size not in (None, side):
        raise UsageError(
            f"the network takes squares of {side} pixels",
            place="task.image_size",
            hint="change the base's `image_size`",
        )
    size = {"shortest_edge": side, "longest_edge": side}
    return EomtImageProcessor(size=size, do_pad=True, image_mean=mean, image_std=deviation, do_normalize=True)


# ---------------------------------------------------------------- inputs


def semantic_inputs(processor: Any, image: Any, labels: numpy.ndarray | None) -> dict[str, torch.Tensor]:
    """Return `pixel_values` [channels, h, w], and `labels` [h, w] when there is a map of them."""
    if labels is None:
        return {"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"][0]}
    tensors = processor(images=image, segmentation_maps=labels, do_reduce_labels=False, return_tensors="pt")
    return {"pixel_values": tensors["pixel_values"][0], "labels": tensors["labels"][0]}


def universal_inputs(
    processor: Any, image: Any, ids: numpy.ndarray | None = None, labels: Mapping[int, int] | None = None
) -> dict[str, torch.Tensor]:
    """Return the inputs of a universal segmenter for one image.

    They are `pixel_values`, `pixel_mask` (not of EoMT), and with a map of ids also `mask_labels` bool [n, h, w] and
    `class_labels` [n].

    Args:
        processor: the image processor.
        image: a PIL image.
        ids: 0 for nothing.
        labels: the label index of each id.
    """
    if is_eomt(processor):
        return _eomt_inputs(processor, image, ids, labels or {})
    if ids is None:
        tensors = processor(images=image, return_tensors="pt")
        return {name: tensors[name][0] for name in ("pixel_values", "pixel_mask")}
    tensors = processor(
        images=image,
        segmentation_maps=ids,
        instance_id_to_semantic_id=dict(labels or {}),
        ignore_index=0,
        do_reduce_labels=False,
        return_tensors="pt",
    )
    inputs = {name: tensors[name][0] for name in ("pixel_values", "pixel_mask", "mask_labels", "class_labels")}
    inputs["mask_labels"] = inputs["mask_labels"].bool()
    return inputs


def _eomt_inputs(
    processor: Any, image: Any, ids: numpy.ndarray | None, labels: Mapping[int, int]
) -> dict[str, torch.Tensor]:
    """Return `pixel_values`, and with a map of ids also `mask_labels` bool [n, h, w] and `class_labels` [n]."""
    if ids is None:
        return {"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"][0]}
    # with `ignore_index` 0 it would drop the segment 1: so 0 is a segment of its own, and left out afterwards
    labels_of_ids = {**labels, 0: -1}
    tensors = processor(
        images=image, segmentation_maps=ids, instance_id_to_semantic_id=labels_of_ids, return_tensors="pt"
    )
    masks, classes = tensors["mask_labels"][0].bool(), tensors["class_labels"][0]
    return {
        "pixel_values": tensors["pixel_values"][0],
        "mask_labels": masks[classes >= 0],
        "class_labels": classes[classes >= 0],
    }


# ---------------------------------------------------------------- losses


def native_loss(model: Any, batch: Batch, ignored: int) -> Any:
    """Return the loss of a semantic segmenter of transformers; None where the class cannot give one.

    A training batch of one row is doubled where batch norm sees one pixel an image: its loss is the same. A batch
    that has no pixel that counts has the loss 0.
    """
    inputs = model_tensors(batch, model)
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
    """Return whether the loss of a semantic segmenter is a mean over the pixels of the batch that count."""
    return _has_loss(config) and not (config.model_type == "segformer" and labels == 1)


def _has_loss(config: Any) -> bool:
    """Return whether the class gives a loss: that of DPT wants its auxiliary head."""
    return config.model_type != "dpt" or config.use_auxiliary_head


def _config(model: Any) -> Any:
    return getattr(model, "module", model).config


def universal_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the loss of a universal segmenter.

    Outside training the points at which Mask2Former compares masks are drawn from a seed of the batch's rows, so the
    same rows have the same loss.
    """
    inputs = model_tensors(batch, model)
    inputs["mask_labels"] = [mask.to(inputs["pixel_values"].dtype) for mask in inputs["mask_labels"]]
    seed = None if model.training else sum(item.extra["seed"] for item in batch.items)
    with counting_alone(), _seeding(seed, inputs["pixel_values"].device):
        return model(**inputs).loss


@contextmanager
def _seeding(seed: int | None, device: torch.device) -> Iterator[None]:
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield
