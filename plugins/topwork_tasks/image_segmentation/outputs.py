"""What the outputs of segmenters mean: label numbers, instances or panoptic segments of the original picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from topwork_tasks.image_segmentation import eomt as _eomt
from topwork_tasks.image_segmentation.metrics import encoded

if TYPE_CHECKING:
    import numpy
    import torch


#: numbers of a part of the enlarged maps: 8 MB
_AT_ONCE = 2**21


def semantic_maps(logits: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[numpy.ndarray]:
    """The likeliest label of each pixel, at the sizes (width, height) of the original pictures."""
    return [_small(_likeliest(entry, size)) for entry, size in zip(logits, sizes)]


def _likeliest(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[labels, h, w] -> [height, width]. A few labels at a time are enlarged: all of 150 would take 200 MB for a
    picture of half a megapixel, and three times as long."""
    import torch
    from torch.nn import functional

    width, height = size
    step = max(1, _AT_ONCE // (width * height))
    best = torch.full((height, width), -torch.inf, device=logits.device)
    found = torch.zeros((height, width), dtype=torch.int16, device=logits.device)
    for first in range(0, len(logits), step):
        part = logits[None, first : first + step].float().contiguous()
        whole = functional.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
        highest, place = whole[0].max(0)  # six times as fast on a CPU as `argmax` over the first dimension
        found = torch.where(highest > best, place.to(torch.int16) + first, found)
        best = torch.maximum(highest, best)
    return found


def _small(numbers: torch.Tensor) -> numpy.ndarray:
    import numpy

    return numbers.cpu().numpy().astype(numpy.int16)


def one_by_one(outputs: Any) -> Iterator[Any]:
    """Outputs of a universal segmenter for each picture, in float32."""
    for labels, masks in zip(outputs.class_queries_logits.float(), outputs.masks_queries_logits.float()):
        yield SimpleNamespace(class_queries_logits=labels[None], masks_queries_logits=masks[None], patch_offsets=None)


def universal_semantic(processor: Any, output: Any, size: tuple[int, int]) -> numpy.ndarray:
    """Label numbers [height, width]."""
    if _eomt.is_eomt(processor):
        return _small(_eomt.semantic(processor, output, size))
    return _small(processor.post_process_semantic_segmentation(output, target_sizes=[size[::-1]])[0])


def universal_panoptic(
    processor: Any, output: Any, size: tuple[int, int], thresholds: Mapping[str, float], stuff: Sequence[int]
) -> tuple[numpy.ndarray, list[int], list[float]]:
    """Numbers of segments [height, width] (0: nothing), and label and score of each, from 1. Segments of a label in
    `stuff` are one."""
    import numpy

    more: dict[str, Any] = {} if _eomt.is_eomt(processor) else {"label_ids_to_fuse": set()}
    found = processor.post_process_panoptic_segmentation(output, target_sizes=[size[::-1]], **more, **thresholds)[0]
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
    if _eomt.is_eomt(processor):
        return _eomt.instances(processor, output, size)
    found = processor.post_process_instance_segmentation(
        output, target_sizes=[size[::-1]], threshold=0.0, return_binary_maps=True
    )[0]
    entries = found["segments_info"]
    masks = found["segmentation"].cpu().numpy() if entries else []
    rles = [encoded(mask > 0.5) for mask in masks]
    return [int(entry["label_id"]) for entry in entries], [float(entry["score"]) for entry in entries], rles


def read(processor: Any, output: Any, size: tuple[int, int], options: Any, stuff: Sequence[int]) -> Any:
    """One picture's answer of a universal segmenter, as the kind of segmentation wants it.

    Args:
        stuff: label numbers whose segments are one.
    """
    if options.kind == "semantic":
        return universal_semantic(processor, output, size)
    if options.kind == "instance":
        return (*universal_instances(processor, output, size), size)
    thresholds = {
        "threshold": options.threshold,
        "mask_threshold": options.mask_threshold,
        "overlap_mask_area_threshold": options.overlap_threshold,
    }
    return universal_panoptic(processor, output, size, thresholds, stuff)
