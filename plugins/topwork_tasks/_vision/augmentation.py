"""Random changes of training images by torchvision's v2, with the boxes or maps on them.

Entry points: `augment_parts` and `make_augmentation`; then `augment_boxes` or `augment_map` for one draw. Random draws
come from torch's global generator: see `seeding_torch` and `row_seed`.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from topwork import UsageError
from topwork_tasks._vision.boxes import Objects

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

Part = Literal[
    "shift", "zoom", "rotate", "crop", "mirror", "brightness", "contrast", "saturation", "distort", "trivial"
]
Augment = Literal["none", "light", "standard", "strong"] | list[Part]
#: parts of the names, for images alone; with labels of pixels; with boxes and with depth, whose shapes must not turn
#: light has no shift: networks that learn positions from nothing learn more slowly with it, and then worse
_LIGHT: tuple[Part, ...] = ("zoom", "rotate")
_STANDARD: tuple[Part, ...] = ("crop", "mirror", "brightness", "contrast", "saturation")
IMAGE_PARTS = {"light": _LIGHT, "standard": _STANDARD, "strong": (*_STANDARD, "trivial")}
MAP_PARTS = {"light": _LIGHT, "standard": _STANDARD, "strong": (*_STANDARD, "shift", *_LIGHT, "distort")}
BOX_PARTS = {"light": ("zoom",), "standard": _STANDARD, "strong": (*_STANDARD, "distort")}
DEPTH_PARTS = {
    "light": ("mirror",),
    "standard": ("mirror", "crop", "brightness", "contrast"),
    "strong": ("mirror", "crop", "brightness", "contrast", "distort"),
}
_PARTS_HELP = (
    "shift: by up to 8 %; zoom: by up to 10 %; rotate: by up to 8 degrees; crop: a random part, resized; mirror: left "
    "and right; brightness, contrast, saturation: by up to 30 %; distort: random colours; trivial: TrivialAugment "
    "(Mueller and Hutter 2021, arXiv 2103.10158). What lies outside the image gets its mean colour"
)


def augment_help(parts: Mapping[str, Sequence[str]]) -> str:
    """Return the description of an option `augment` whose names stand for these parts."""
    names = "; ".join(f"{name}: {', '.join(entries)}" for name, entries in parts.items())
    return f"random changes of training images. {names}; or a list of parts. {_PARTS_HELP}"


def augment_parts(augment: Augment, parts: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the parts of an option `augment`.

    Raises:
        UsageError: a part that the task does not have.
    """
    if isinstance(augment, str):
        return tuple(parts.get(augment, ()))
    known = {part for entries in parts.values() for part in entries}
    known |= {"shift"} if "zoom" in known else set()
    if unfit := [part for part in augment if part not in known]:
        raise UsageError(
            f"`{unfit[0]}` is no part of this task's augmentation",
            place="task.augment",
            hint=f"its parts are {', '.join(sorted(known))}",
        )
    return tuple(augment)


def make_augmentation(
    parts: Collection[str],
    height: int,
    width: int,
    colour: Sequence[int],
    kind: Literal["image", "boxes", "map"] = "image",
    map_fill: float = 0,
    crop: float = 0.35,
) -> Any:
    """Make a transform of PIL images, and of the boxes or maps on them; None without parts.

    Args:
        parts: see `augment_help`.
        height: of a crop, in pixels.
        width: of a crop, in pixels.
        colour: of the pixels outside the image, a number for each channel.
        kind: what lies on the image and follows it.
        map_fill: value of a map outside the image.
        crop: least share of the image in a crop.
    """
    if not parts:
        return None
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    fill: dict[Any, Any] = {tv_tensors.Mask: map_fill, "others": list(colour)}
    steps: list[Any] = []
    if "crop" in parts:
        resized = v2.RandomResizedCrop((height, width), scale=(crop, 1.0), antialias=True)
        steps.append(v2.RandomIoUCrop() if kind == "boxes" else resized)
    if "mirror" in parts:
        steps.append(v2.RandomHorizontalFlip())
    if "trivial" in parts:
        steps.append(v2.TrivialAugmentWide(fill=fill))
    colours = {name: 0.3 for name in ("brightness", "contrast", "saturation") if name in parts}
    if colours:
        steps.append(v2.ColorJitter(**colours))
    if {"shift", "zoom", "rotate"} & set(parts):
        shift, zoom = (0.08, 0.08) if "shift" in parts else None, (0.9, 1.1) if "zoom" in parts else None
        turn = 8 if "rotate" in parts else 0
        # maps are read at the nearest pixel whatever is said here; images would get jagged edges by it
        smooth = v2.InterpolationMode.BILINEAR
        steps.append(v2.RandomAffine(turn, translate=shift, scale=zoom, interpolation=smooth, fill=fill))
    if "distort" in parts:
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
