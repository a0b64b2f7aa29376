"""Segmentation items -> one batch: pictures and their maps padded to the largest of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from topwork import Batch, Item, Mode
from topwork_tasks.object_detection import detectors as _detectors

if TYPE_CHECKING:
    import torch


def batched(items: Sequence[Item], mode: Mode, universal: bool, ignored: int) -> Batch:
    """A batch; what was padded is `ignored` in label maps and belongs to no mask.

    Args:
        universal: whether truths are masks with labels (`mask_labels`, `class_labels`) instead of `labels`.
    """
    if mode == "predict":
        return Batch(_detectors.side_by_side(items), items)
    inputs, _ = _detectors.padded(items, "pixel_mask" in items[0].inputs)
    height, width = inputs["pixel_values"].shape[-2:]
    if universal:
        inputs["mask_labels"] = [_enlarged(item.inputs["mask_labels"], height, width, 0) for item in items]
        inputs["class_labels"] = [item.inputs["class_labels"] for item in items]
    else:
        import torch

        labels = [_enlarged(item.inputs["labels"], height, width, ignored) for item in items]
        inputs["labels"] = torch.stack(labels).long()
    return Batch(inputs, items)


def _enlarged(values: torch.Tensor, height: int, width: int, fill: int) -> torch.Tensor:
    """[..., h, w] -> [..., height, width], filled at the right and below."""
    if tuple(values.shape[-2:]) == (height, width):
        return values
    canvas = values.new_full((*values.shape[:-2], height, width), fill)
    canvas[..., : values.shape[-2], : values.shape[-1]] = values
    return canvas
