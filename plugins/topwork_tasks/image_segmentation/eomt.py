"""What is peculiar to EoMT (Kerssies et al. 2025, arXiv 2503.19108), a plain vision transformer that answers masks: it
takes squares of one size, so its image processor keeps the shape of a picture and pads it; masks are cut back before
they are enlarged to the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import UsageError
from topwork_tasks.image_segmentation.metrics import encoded

if TYPE_CHECKING:
    import numpy
    import torch

TYPES = ("eomt", "eomt_dinov3")


def is_eomt(processor: Any) -> bool:
    """Whether an image processor is EoMT's."""
    return type(processor).__name__.startswith("EomtImageProcessor")


def check_processor(processor: Any) -> None:
    """Refuse what the image processors of semantic checkpoints do: they divide a picture into several.

    Raises:
        UsageError: also for one that does not pad, for the network takes squares only.
    """
    if getattr(processor, "do_split_image", False) or not getattr(processor, "do_pad", False):
        raise UsageError(
            "the image processor divides pictures, or does not pad them to a square",
            place="base.processor",
            hint="save it with `do_split_image: false` and `do_pad: true`",
        )


def made_processor(config: Any, image_size: int | None, mean: list[float], deviation: list[float]) -> Any:
    """An image processor for the network's one size.

    Raises:
        UsageError: another size is asked for.
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


def inputs(processor: Any, image: Any, ids: numpy.ndarray | None, labels: Mapping[int, int]) -> dict[str, torch.Tensor]:
    """`pixel_values`, and with a map of ids (0 for nothing) `mask_labels` bool [n, h, w] and `class_labels` [n]."""
    if ids is None:
        return {"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"][0]}
    # told to ignore 0, it would drop the segment 1: so 0 is a segment of its own, and left out afterwards
    told = {**labels, 0: -1}
    found = processor(images=image, segmentation_maps=ids, instance_id_to_semantic_id=told, return_tensors="pt")
    masks, classes = found["mask_labels"][0].bool(), found["class_labels"][0]
    return {
        "pixel_values": found["pixel_values"][0],
        "mask_labels": masks[classes >= 0],
        "class_labels": classes[classes >= 0],
    }


def _masks(processor: Any, output: Any, size: tuple[int, int]) -> torch.Tensor:
    """Logits [queries, height, width] at the picture's size (width, height)."""
    from torch.nn import functional

    side = (processor.size["shortest_edge"], processor.size["longest_edge"])
    whole = functional.interpolate(output.masks_queries_logits, size=side, mode="bilinear")
    return processor.unpad_image(whole, [size[::-1]], processor.size)[0]


def semantic(processor: Any, output: Any, size: tuple[int, int]) -> torch.Tensor:
    """Label numbers [height, width]: the label whose masks are likeliest together. transformers' own way would stretch
    the padding into the picture."""
    import torch

    classes = output.class_queries_logits[0].softmax(-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", classes, _masks(processor, output, size).sigmoid()).argmax(0)


def instances(
    processor: Any, output: Any, size: tuple[int, int]
) -> tuple[list[int], list[float], list[dict[str, Any]]]:
    """Label, score and run lengths of every mask that is not empty; transformers' own way answers masks with holes
    where later ones lie over them."""
    masks = _masks(processor, output, size)
    scores, labels = output.class_queries_logits[0].softmax(-1)[:, :-1].max(-1)
    inside = masks > 0
    area = inside.flatten(1).sum(1)
    sure = (masks.sigmoid() * inside).flatten(1).sum(1) / (area + 1e-6)
    kept = area.nonzero()[:, 0].tolist()
    rles = [encoded(inside[place].cpu().numpy()) for place in kept]
    found = (scores * sure).tolist()
    return [int(labels[place]) for place in kept], [round(found[place], 6) for place in kept], rles
