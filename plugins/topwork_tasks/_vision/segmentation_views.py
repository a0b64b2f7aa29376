"""Augmentation of a picture together with maps of its pixels (labels, segments, depth), by torchvision's v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork_tasks._vision.images import Augment

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image


def transform(kind: Augment, height: int, width: int, fill: float) -> Any:
    """A transform of (PIL image, tv_tensors.Mask): light, standard or strong; None for "none".

    Args:
        height, width: of a crop, in pixels.
        fill: what the map holds where there was no picture.
    """
    if kind == "none":
        return None
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    fills = {tv_tensors.Mask: fill, "others": 0}
    shift: Any = v2.RandomAffine(8, translate=(0.08, 0.08), scale=(0.9, 1.1), fill=fills)
    if kind == "light":
        return v2.Compose([shift, v2.ColorJitter(brightness=0.2, contrast=0.2)])
    steps: list[Any] = [
        v2.RandomResizedCrop((height, width), scale=(0.35, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.3, 0.3, 0.3),
    ]
    if kind == "strong":
        steps += [shift, v2.RandomPhotometricDistort()]
    return v2.Compose(steps)


def depth_transform(kind: Augment, height: int, width: int) -> Any:
    """For depth: mirror images and colours; standard adds crops, strong stronger colours. Nothing turns the picture:
    the ground stays below. None for "none"."""
    if kind == "none":
        return None
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.2, contrast=0.2)]
    if kind != "light":
        steps.insert(0, v2.RandomResizedCrop((height, width), scale=(0.6, 1.0), antialias=True))
    if kind == "strong":
        steps.append(v2.RandomPhotometricDistort())
    return v2.Compose(steps)


def viewed(transform: Any, image: Image, values: numpy.ndarray) -> tuple[Image, numpy.ndarray]:
    """The picture and its map [height, width] after one random draw; maps are resized to the nearest pixel."""
    import torch
    from torchvision import tv_tensors

    image, mask = transform(image, tv_tensors.Mask(torch.from_numpy(values.copy())[None]))
    return image, mask[0].numpy()
