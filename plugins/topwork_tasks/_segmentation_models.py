"""Segmenters of transformers: which there are, their image processors, their losses, and what their outputs mean.

Universal segmenters (MaskFormer, Mask2Former) answer a set of masks with labels, so they do semantic, instance and
panoptic segmentation; the others answer logits for each pixel.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from topwork import Base, Batch, CheckpointError, UsageError
from topwork_tasks import _image
from topwork_tasks._segmentation_metrics import encoded

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn

SEMANTIC = ("AutoModelForSemanticSegmentation",)
UNIVERSAL = ("AutoModelForUniversalSegmentation",)
_PROCESSORS = {"mask2former": "Mask2FormerImageProcessor", "maskformer": "MaskFormerImageProcessor"}
#: those with batch norm on one pixel a picture (pooled context): one row alone cannot be normalised
_POOLED = ("upernet", "beit", "data2vec-vision", "mobilevit", "mobilevitv2", "mobilenet_v2", "dpt")


def is_universal(config: Any) -> bool:
    """Whether the architecture answers masks with labels."""
    return config.model_type in _PROCESSORS


def universal(base: Base, weights: bool, changes: Mapping[str, Any]) -> nn.Module:
    """The architecture's own class for masks with labels."""
    found = base.native(*UNIVERSAL, weights=weights, **changes)
    if found is None:
        raise CheckpointError(f"transformers has no universal segmenter `{base.config.model_type}`")
    return found


# ---------------------------------------------------------------- image processors


def find_processor(rows: Any, base: Base, image_size: int | None) -> Any:
    """The base's own image processor when it can take masks along with pictures; else one that resizes to the size
    and normalises by the mean and deviation that the base's own has, or that the rows have."""
    saved = _image.saved_processor(base, image_size)
    if saved is not None and follows(saved) and (not is_universal(base.config) or _post_processes(saved)):
        return saved
    if saved is not None:
        from PIL import Image

        details = getattr(saved, "data_config", None) or {}
        mean, deviation = (details.get("mean") or saved.image_mean), (details.get("std") or saved.image_std)
        blank = Image.new(_image.mode_of(base.config), (64, 48))
        height, width = saved(images=blank, return_tensors="pt")["pixel_values"].shape[-2:]
        return _made(base.config, height, width, list(mean), list(deviation))
    if rows is None:
        raise UsageError(
            "the base has no image processor and there are no training rows to learn one from",
            place="task image-segmentation",
            mend="give training rows, or `base.processor`",
        )
    mean, deviation, height, width = _image.learn_statistics(rows, _image.mode_of(base.config))
    if image_size is not None:
        height = width = image_size
    else:
        height, width = _image.config_size(base.config) or (-(-height // 32) * 32, -(-width // 32) * 32)
    return _made(base.config, height, width, mean, deviation)


def follows(processor: Any) -> bool:
    """Whether an image processor takes masks along."""
    return "segmentation_maps" in inspect.signature(type(processor).preprocess).parameters


def _post_processes(processor: Any) -> bool:
    return hasattr(processor, "post_process_panoptic_segmentation")


def _made(config: Any, height: int, width: int, mean: list[float], deviation: list[float]) -> Any:
    import transformers

    kind = getattr(transformers, _PROCESSORS.get(config.model_type, "SegformerImageProcessor"))
    return kind(
        size={"height": height, "width": width},
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
    """`pixel_values`, `pixel_mask`, and with a map of ids also `mask_labels` bool [n, h, w] and `class_labels` [n].

    Args:
        ids: 0 for nothing.
        labels: the label number of each id.
    """
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
    if config.model_type == "dpt" and not config.use_auxiliary_head:
        return None  # transformers' own loss wants the auxiliary head
    return model(**inputs, labels=labels).loss


def _config(model: Any) -> Any:
    return getattr(model, "module", model).config


def universal_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The loss of a universal segmenter. Outside training the points at which Mask2Former compares masks are drawn
    from a seed of the batch's own rows, so the same rows have the same loss."""
    inputs = _image.model_tensors(batch, model)
    inputs["mask_labels"] = [mask.to(inputs["pixel_values"].dtype) for mask in inputs["mask_labels"]]
    if model.training:
        return model(**inputs).loss
    with _drawn_from(sum(item.beside["seed"] for item in batch.items), inputs["pixel_values"].device):
        return model(**inputs).loss


@contextmanager
def _drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield


# ---------------------------------------------------------------- what outputs mean


def semantic_maps(logits: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[numpy.ndarray]:
    """The likeliest label of each pixel, at the sizes (width, height) of the original pictures."""
    from torch.nn import functional

    maps = []
    for entry, (width, height) in zip(logits, sizes):
        whole = functional.interpolate(entry[None].float(), size=(height, width), mode="bilinear", align_corners=False)
        maps.append(_small(whole[0].argmax(0)))
    return maps


def _small(numbers: torch.Tensor) -> numpy.ndarray:
    import numpy

    return numbers.cpu().numpy().astype(numpy.int16)


def one_by_one(outputs: Any) -> Iterator[Any]:
    """Outputs of a universal segmenter for each picture, in float32."""
    for labels, masks in zip(outputs.class_queries_logits.float(), outputs.masks_queries_logits.float()):
        yield SimpleNamespace(class_queries_logits=labels[None], masks_queries_logits=masks[None])


def universal_semantic(processor: Any, output: Any, size: tuple[int, int]) -> numpy.ndarray:
    """Label numbers [height, width]."""
    return _small(processor.post_process_semantic_segmentation(output, target_sizes=[size[::-1]])[0])


def universal_panoptic(
    processor: Any, output: Any, size: tuple[int, int], thresholds: Mapping[str, float], stuff: Sequence[int]
) -> tuple[numpy.ndarray, list[int], list[float]]:
    """Numbers of segments [height, width] (0: nothing), and label and score of each, from 1. Segments of a label in
    `stuff` are one."""
    import numpy

    found = processor.post_process_panoptic_segmentation(
        output, target_sizes=[size[::-1]], label_ids_to_fuse=set(), **thresholds
    )[0]
    segmentation = _small(found["segmentation"])
    ids, labels, scores = numpy.zeros_like(segmentation), [], []
    fused: dict[int, int] = {}
    for entry in found["segments_info"]:
        label = int(entry["label_id"])
        if label in fused:
            ids[segmentation == entry["id"]] = fused[label]
            continue
        labels.append(label)
        scores.append(float(entry["score"]))
        ids[segmentation == entry["id"]] = len(labels)
        if label in stuff:
            fused[label] = len(labels)
    return ids, labels, scores


def universal_instances(
    processor: Any, output: Any, size: tuple[int, int]
) -> tuple[list[int], list[float], list[dict[str, Any]]]:
    """Label, score and run lengths of every mask that is not empty, in the order of the image processor."""
    found = processor.post_process_instance_segmentation(
        output, target_sizes=[size[::-1]], threshold=0.0, return_binary_maps=True
    )[0]
    entries = found["segments_info"]
    masks = found["segmentation"].cpu().numpy() if entries else []
    rles = [encoded(mask > 0.5) for mask in masks]
    return [int(entry["label_id"]) for entry in entries], [float(entry["score"]) for entry in entries], rles


def read(processor: Any, output: Any, size: tuple[int, int], options: Any, names: Sequence[str]) -> Any:
    """One picture's answer of a universal segmenter, as the kind of segmentation wants it."""
    if options.kind == "semantic":
        return universal_semantic(processor, output, size)
    if options.kind == "instance":
        return (*universal_instances(processor, output, size), size)
    thresholds = {
        "threshold": options.threshold,
        "mask_threshold": options.mask_threshold,
        "overlap_mask_area_threshold": options.overlap_threshold,
    }
    return universal_panoptic(processor, output, size, thresholds, [names.index(name) for name in options.stuff])
