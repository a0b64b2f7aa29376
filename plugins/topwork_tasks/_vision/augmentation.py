"""Random changes of training images by torchvision's v2: images alone, with boxes, with label maps, with depth maps.

Random draws come from torch's global generator: see `seeding_torch` and `row_seed`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from topwork_tasks._vision.boxes import Objects

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

Augment = Literal["none", "light", "standard", "strong"]
AUGMENT_HELP = (
    "light: small shifts, zooms and changes of brightness; standard: random crops and mirror images too; "
    "strong: TrivialAugment on top (Mueller and Hutter 2021, arXiv 2103.10158)"
)


def image_augmentation(kind: Augment, height: int, width: int, boxes: bool = False) -> Any:
    """Make a transform of PIL images, with `boxes` also of the boxes on them; None for "none".

    Args:
        height, width: of a crop, in pixels.
    """
    if kind == "none":
        return None
    from torchvision.transforms import v2

    light: list[Any] = [
        v2.RandomAffine(0 if boxes else 8, translate=(0.08, 0.08), scale=(0.9, 1.1)),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
    ]
    if kind == "light":
        return v2.Compose(light)
    crop = v2.RandomIoUCrop() if boxes else v2.RandomResizedCrop((height, width), scale=(0.35, 1.0), antialias=True)
    standard = [crop, v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)]
    if kind == "strong":
        standard.insert(2, v2.RandomPhotometricDistort() if boxes else v2.TrivialAugmentWide())
    return v2.Compose(standard)


def label_map_augmentation(kind: Augment, height: int, width: int, fill: float) -> Any:
    """Make a transform of (PIL image, tv_tensors.Mask); None for "none".

    Args:
        height, width: of a crop, in pixels.
        fill: value of the map outside the image.
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


def depth_augmentation(kind: Augment, height: int, width: int) -> Any:
    """Make a transform of (PIL image, tv_tensors.Mask) for depth: mirror images and colours, from "standard" on crops,
    with "strong" stronger colours; None for "none". Nothing is rotated: the ground stays below."""
    if kind == "none":
        return None
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.2, contrast=0.2)]
    if kind != "light":
        steps.insert(0, v2.RandomResizedCrop((height, width), scale=(0.6, 1.0), antialias=True))
    if kind == "strong":
        steps.append(v2.RandomPhotometricDistort())
    return v2.Compose(steps)


# ---------------------------------------------------------------- one random draw


def augment_map(transform: Any, image: Image, values: numpy.ndarray) -> tuple[Image, numpy.ndarray]:
    """Apply a transform to an image and its map [height, width]; maps are resized to the nearest pixel."""
    import torch
    from torchvision import tv_tensors

    image, mask = transform(image, tv_tensors.Mask(torch.from_numpy(values.copy())[None]))
    return image, mask[0].numpy()


def augment_boxes(transform: Any, image: Image, objects: Objects) -> tuple[Image, Objects]:
    """Apply a transform to an image and its objects; objects outside the new image are dropped."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(objects.boxes).float(), format="XYXY", canvas_size=(image.height, image.width)
    )
    indices = torch.arange(len(objects.categories))
    clean = v2.SanitizeBoundingBoxes(min_size=1, labels_getter=lambda sample: sample[1]["labels"])
    image, target = clean(*transform(image, {"boxes": boxes, "labels": indices}))
    kept = target["labels"].tolist()
    corners = target["boxes"].double().numpy()
    areas = (corners[:, 2:] - corners[:, :2]).prod(-1)
    return image, Objects(corners, [objects.categories[index] for index in kept], objects.crowd[kept], areas)


@contextmanager
def seeding_torch(seed: int) -> Iterator[None]:
    """Let torch draw from `seed` inside the context; its global state is the same afterwards."""
    import torch

    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def row_seed(seed: int, image: Image) -> int:
    """Return a seed that differs from row to row, made of the run's seed and the image itself."""
    return (seed * 1_000_003 + zlib.crc32(image.tobytes())) % 2**63
