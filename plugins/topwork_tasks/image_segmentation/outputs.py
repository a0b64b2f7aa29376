"""Outputs of segmenters -> labels, instances or panoptic segments of the original image, and predictions.

Entry points: `semantic_maps` for logits of each pixel, `read_universal` for masks with labels; then
`semantic_prediction`, `instance_prediction` or `panoptic_prediction`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from topwork import Json
from topwork_tasks.image_segmentation.metrics import decoded, encoded
from topwork_tasks.image_segmentation.models import is_eomt

if TYPE_CHECKING:
    import numpy
    import torch
    from PIL.Image import Image

#: numbers of a part of the resized maps: 8 MB
_AT_ONCE = 2**21


def semantic_maps(logits: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[numpy.ndarray]:
    """Return the likeliest label of each pixel, int16, at the sizes (width, height) of the original images."""
    return [_int16(_likeliest(item, size)) for item, size in zip(logits, sizes)]


def _likeliest(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the likeliest of [labels, h, w], [height, width].

    A few labels at a time are resized: all of 150 would take 200 MB for an image of half a megapixel, and three times
    as long.
    """
    import torch
    from torch.nn import functional

    width, height = size
    step = max(1, _AT_ONCE // (width * height))
    best = torch.full((height, width), -torch.inf, device=logits.device)
    labels = torch.zeros((height, width), dtype=torch.int16, device=logits.device)
    for first in range(0, len(logits), step):
        part = logits[None, first : first + step].float().contiguous()
        whole = functional.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
        highest, index = whole[0].max(0)  # six times as fast on a CPU as `argmax` over the first dimension
        labels = torch.where(highest > best, index.to(torch.int16) + first, labels)
        best = torch.maximum(highest, best)
    return labels


def _int16(numbers: torch.Tensor) -> numpy.ndarray:
    import numpy

    return numbers.cpu().numpy().astype(numpy.int16)


def split_outputs(outputs: Any) -> Iterator[Any]:
    """Yield the outputs of a universal segmenter for each image, in float32."""
    for labels, masks in zip(outputs.class_queries_logits.float(), outputs.masks_queries_logits.float()):
        yield SimpleNamespace(class_queries_logits=labels[None], masks_queries_logits=masks[None], patch_offsets=None)


def universal_semantic(processor: Any, output: Any, size: tuple[int, int]) -> numpy.ndarray:
    """Return label indices [height, width] of a universal segmenter."""
    if is_eomt(processor):
        return _int16(_eomt_semantic(processor, output, size))
    return _int16(processor.post_process_semantic_segmentation(output, target_sizes=[size[::-1]])[0])


def universal_panoptic(
    processor: Any, output: Any, size: tuple[int, int], thresholds: Mapping[str, float], stuff: Sequence[int]
) -> tuple[numpy.ndarray, list[int], list[float]]:
    """Return ids of segments [height, width] (0: nothing), and label and score of each, from id 1.

    Segments of a label in `stuff` are one.
    """
    import numpy

    more: dict[str, Any] = {} if is_eomt(processor) else {"label_ids_to_fuse": set()}
    result = processor.post_process_panoptic_segmentation(output, target_sizes=[size[::-1]], **more, **thresholds)[0]
    segmentation = _int16(result["segmentation"])
    ids, labels, scores = numpy.zeros_like(segmentation), [], []
    fused: dict[int, int] = {}
    for segment in result["segments_info"]:
        label = int(segment["label_id"])
        if label in fused:
            ids[segmentation == segment["id"]] = fused[label]
            continue
        labels.append(label)
        scores.append(float(segment["score"]))
        ids[segmentation == segment["id"]] = len(labels)
        if label in stuff:
            fused[label] = len(labels)
    return ids, labels, scores


def universal_instances(
    processor: Any, output: Any, size: tuple[int, int]
) -> tuple[list[int], list[float], list[dict[str, Any]]]:
    """Return label, score and run lengths of every mask that is not empty, in the order of the image processor."""
    if is_eomt(processor):
        return _eomt_instances(processor, output, size)
    result = processor.post_process_instance_segmentation(
        output, target_sizes=[size[::-1]], threshold=0.0, return_binary_maps=True
    )[0]
    entries = result["segments_info"]
    masks = result["segmentation"].cpu().numpy() if entries else []
    rles = [encoded(mask > 0.5) for mask in masks]
    return [int(entry["label_id"]) for entry in entries], [float(entry["score"]) for entry in entries], rles


# ---------------------------------------------------------------- EoMT


def _eomt_masks(processor: Any, output: Any, size: tuple[int, int]) -> torch.Tensor:
    """Return logits [queries, height, width] at the image's size (width, height), padding cut off first."""
    from torch.nn import functional

    side = (processor.size["shortest_edge"], processor.size["longest_edge"])
    whole = functional.interpolate(output.masks_queries_logits, size=side, mode="bilinear")
    return processor.unpad_image(whole, [size[::-1]], processor.size)[0]


def _eomt_semantic(processor: Any, output: Any, size: tuple[int, int]) -> torch.Tensor:
    """Return label indices [height, width]: the label whose masks are likeliest together.

    transformers' own way would stretch the padding into the image.
    """
    import torch

    classes = output.class_queries_logits[0].softmax(-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", classes, _eomt_masks(processor, output, size).sigmoid()).argmax(0)


def _eomt_instances(
    processor: Any, output: Any, size: tuple[int, int]
) -> tuple[list[int], list[float], list[dict[str, Any]]]:
    """Return label, score and run lengths of every mask that is not empty.

    transformers' own way returns masks with holes where later ones lie over them.
    """
    masks = _eomt_masks(processor, output, size)
    scores, labels = output.class_queries_logits[0].softmax(-1)[:, :-1].max(-1)
    inside = masks > 0
    area = inside.flatten(1).sum(1)
    certainty = (masks.sigmoid() * inside).flatten(1).sum(1) / (area + 1e-6)
    kept = area.nonzero()[:, 0].tolist()
    rles = [encoded(inside[query].cpu().numpy()) for query in kept]
    products = (scores * certainty).tolist()
    return [int(labels[query]) for query in kept], [round(products[query], 6) for query in kept], rles


def read_universal(processor: Any, output: Any, size: tuple[int, int], options: Any, stuff: Sequence[int]) -> Any:
    """Return one image's output of a universal segmenter, as the kind of segmentation wants it.

    Args:
        processor: the image processor.
        output: of the model, for one image.
        size: width and height of the image.
        options: of the task.
        stuff: label indices whose segments are one.
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


# ---------------------------------------------------------------- predictions


class Segmentation(list):
    """Prediction: `[{"score": float or None, "label": name, "mask": PIL image (L, 0 and 255)}, ...]`.

    Attributes:
        map: int [height, width]: label indices (semantic), or ids of segments from 1, 0 for nothing.
        labels, scores: of the segments; of instances all, also those below the threshold.
        rles: run lengths of all instances; empty for the other kinds.
        size: width and height.
    """

    def __init__(
        self,
        entries: Sequence[Mapping[str, Any]],
        values: numpy.ndarray,
        labels: Sequence[int] = (),
        scores: Sequence[float] = (),
        rles: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(entries)
        self.map, self.labels, self.scores, self.rles = values, list(labels), list(scores), list(rles)
        self.size = (values.shape[1], values.shape[0])

    def __repr__(self) -> str:
        """Return the same text for two predictions with the same masks."""
        parts = (
            f"{{'score': {entry['score']!r}, 'label': {entry['label']!r}, 'mask': {_described(entry['mask'])}}}"
            for entry in self
        )
        return f"[{', '.join(parts)}]"


def _described(mask: Image) -> str:
    return f"<L {mask.width}x{mask.height} {zlib.crc32(mask.tobytes()):08x}>"


def semantic_prediction(labels: numpy.ndarray, names: Sequence[str]) -> Segmentation:
    """Return one mask for each label that occurs, by index; no scores."""
    import numpy

    entries = [{"score": None, "label": names[label], "mask": _mask(labels == label)} for label in numpy.unique(labels)]
    return Segmentation(entries, labels)


def panoptic_prediction(
    ids: numpy.ndarray, labels: Sequence[int], scores: Sequence[float], names: Sequence[str]
) -> Segmentation:
    """Return one mask for each segment."""
    entries = [
        {"score": score, "label": names[label], "mask": _mask(ids == identity)}
        for identity, (label, score) in enumerate(zip(labels, scores), 1)
    ]
    return Segmentation(entries, ids, labels, scores)


def instance_prediction(
    labels: Sequence[int],
    scores: Sequence[float],
    rles: Sequence[dict[str, Any]],
    size: tuple[int, int],
    names: Sequence[str],
    threshold: float,
) -> Segmentation:
    """Return one mask for each instance that scores at least the threshold; later ones lie over earlier ones."""
    import numpy

    ids = numpy.zeros((size[1], size[0]), numpy.int16)
    shown = [index for index, score in enumerate(scores) if score >= threshold]
    for identity, index in enumerate(shown, 1):
        ids[decoded(rles[index])] = identity
    entries = [
        {"score": scores[index], "label": names[labels[index]], "mask": _mask(ids == identity)}
        for identity, index in enumerate(shown, 1)
    ]
    return Segmentation(entries, ids, labels, scores, rles)


def _mask(pixels: numpy.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(pixels.astype("uint8") * 255)


def write_masks(prediction: Sequence[Mapping[str, Any]], folder: Path, name: str) -> Json:
    """Write each mask as a PNG file; return the prediction with their names."""
    entries = []
    for index, entry in enumerate(prediction):
        file = f"{name}-{index:03d}.png"
        entry["mask"].save(Path(folder) / file)
        entries.append({"score": entry["score"], "label": entry["label"], "mask": file})
    return entries
