"""Images as a network takes them: the image processor, sizes, costs, and which positions are patches.

`ImageInputs` has the same methods as the front end of the audio tasks. Opening of files is in `images`, stacking in
`batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt, field_validator

from topwork import Base, CheckpointError, DataError, Row, TaskOptions, Units, UsageError
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.images import Reading, mode_of, open_image, vision_part
from topwork_tasks._vision.statistics import few_levels, learn_pixel_range, learn_statistics

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

#: pixels of a batch for predictions on a CPU
_CPU_PIXELS = 2**19
#: reduced images have at least half of this
_REDUCED_PIXELS = 2**22


class ImageOptions(TaskOptions):
    """Options that all image tasks have."""

    image_size: PositiveInt | None = Field(None, description="pixels; for bases without an image processor")
    pixel_range: tuple[float, float] | None = Field(
        None,
        description="values of images deeper than 8 bits (16-bit, integers, floats) that become black and white; by "
        "default the smallest and the largest of the training rows",
    )
    background: str = Field("white", description="colour behind transparent pixels: a name or #rrggbb")

    @field_validator("pixel_range")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"{value[0]:g} is not below {value[1]:g}")
        return value

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str) -> str:
        from PIL import ImageColor

        ImageColor.getrgb(value)
        return value


def find_pixel_range(rows: Any, options: ImageOptions, config: Any, notes: list[str]) -> tuple[float, float] | None:
    """Return the option `pixel_range`, else the range of the training rows' images deeper than 8 bits.

    None where they have no such image.

    Args:
        rows: training rows, or None.
        options: of the task.
        config: the base's config, which says how many channels there are.
        notes: gets the learned range, and a sentence where the scaled images have a few grey levels only.
    """
    pixel_range = options.pixel_range
    if pixel_range is None and rows is not None:
        pixel_range = learn_pixel_range(rows)
        if pixel_range is not None:
            notes.append(
                f"images deeper than 8 bits are scaled from {pixel_range[0]:g} to {pixel_range[1]:g}, the range of the "
                "training rows; `pixel_range` states another"
            )
    if pixel_range is None or rows is None:
        return pixel_range
    levels = few_levels(rows, Reading(mode_of(config), pixel_range, options.background))
    if levels is not None:
        notes.append(
            f"images deeper than 8 bits have {levels} grey levels only when they are scaled from {pixel_range[0]:g} to "
            f"{pixel_range[1]:g}: `pixel_range` may be too wide"
        )
    return pixel_range


class ImageInputs:
    """Images of rows -> inputs of a network.

    Args:
        processor: image processor of transformers or timm.
        config: the base's config.
        options: of the task.
        values: the task's state; `pixel_range` in it is the range that deeper images are scaled from.
        process: (image, *targets) -> tensors of one image, by name; without it `pixel_values` alone.

    Attributes:
        mode: PIL mode of the network's images.
    """

    def __init__(
        self,
        processor: Any,
        config: Any,
        options: ImageOptions,
        values: Mapping[str, Any],
        process: Callable[..., dict[str, Any]] | None = None,
    ) -> None:
        self.processor, self.config = processor, config
        self.mode = mode_of(config)
        self._process = process or self._pixel_values
        # a folder of a version without a learned range read 16-bit images by their upper byte
        pixel_range = values.get("pixel_range", (0, 65535))
        self._pixel_range = None if pixel_range is None else (float(pixel_range[0]), float(pixel_range[1]))
        self._background = options.background

    def _pixel_values(self, image: Any) -> dict[str, Any]:
        return {"pixel_values": self.processor(images=image, return_tensors="pt")["pixel_values"][0]}

    @cached_property
    def _reading(self) -> Reading:
        return Reading(self.mode, self._pixel_range, self._background, self.shape)

    def open(self, row: Row, index: int | None, mode: str | None = None) -> tuple[Image, tuple[int, int]]:
        """Open a row's image; see `open_image`.

        Returns:
            the image, and width and height of the file: a very large image is reduced.
        """
        reading = self._reading if mode is None else replace(self._reading, mode=mode)
        image = open_image(row.get("image"), index, "image", reading)
        if image.width * image.height * 2 > _REDUCED_PIXELS:
            return image, size_of(row["image"]) or image.size
        return image, image.size

    def features(self, image: Image, index: int | None, *targets: Any) -> dict[str, Any]:
        """Return the tensors of one image, `pixel_values` [channels, height, width] among them.

        Raises:
            DataError: the image processor refuses the image.
        """
        try:
            return self._process(image, *targets)
        except (ValueError, RuntimeError) as error:
            cause = f"the image processor refuses it: {error}"
            raise DataError(cause, row=index, column="image", hint="leave the row out") from error

    @cached_property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of the network's images, None where they depend on the image."""
        from PIL import Image

        blanks = (Image.new(self.mode, size) for size in ((64, 96), (96, 64)))
        first, second = (tuple(self._process(blank)["pixel_values"].shape[-2:]) for blank in blanks)
        return (first[0], first[1]) if first == second else None

    def cost(self, size: tuple[int, int]) -> int:
        """Return the pixels of an image of this width and height. Random crops do not change it."""
        height, width = self.shape or (size[1], size[0])
        return height * width

    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        """Return the costs of rows where they are known without reading, else None; see `Task.costs`."""
        return None if self.shape is None else [[self.shape[0] * self.shape[1]] for _ in range(len(rows))]

    def cost_budget(self, device: str) -> int | None:
        """Return the pixels of a batch for predictions.

        On a CPU few images, whose maps stay in the cache; but two of the usual sizes, for torch resizes the maps of a
        single image up to ten times as slowly.
        """
        return _CPU_PIXELS if device == "cpu" else None

    def units(self, base: Base, pixels: torch.Tensor) -> Units:
        """Return the patches of a plain vision transformer, with class tokens and registers.

        For any other network it is the image alone.

        Args:
            base: the base, whose config says which kind it is.
            pixels: [channels, height, width], as the network takes it.
        """
        image = tensor_to_image(pixels, self.processor)
        patch, prefix = _patches(base.config)
        if patch is None:
            return Units("patch", image=image)
        grid = (pixels.shape[-2] // patch[0], pixels.shape[-1] // patch[1])
        return Units("patch", special=tuple(range(prefix)), grid=grid, image=image)


# ---------------------------------------------------------------- image processors


def saved_processor(base: Base, image_size: int | None) -> Any | None:
    """Return the base's own image processor, None where it has none."""
    processor = base.processor("image_processor")
    if processor is not None and image_size is not None:
        raise UsageError(
            "`image_size` is for bases without an image processor; this one has its own",
            place="task.image_size",
            hint="leave `image_size` out",
        )
    return processor


def reading_images(backbone: Any, base: Base) -> Any:
    """Return a backbone that reads images.

    Raises:
        CheckpointError: it reads something else.
    """
    if backbone.main_input != "pixel_values":
        raise CheckpointError(f"`{base.config.model_type}` is no network for images", hint="choose another base")
    return backbone


def learn_processor(
    rows: Any,
    base: Base,
    options: ImageOptions,
    pixel_range: tuple[float, float] | None,
    make: Callable[[int, int, list[float], list[float]], Any],
    multiple: int = 1,
) -> Any:
    """Make an image processor for a base without one, from the mean and deviation of the rows.

    Args:
        rows: training rows, or None.
        base: the base.
        options: `image_size`; without it the size in the base's config, else the median of the rows.
        pixel_range: that deeper images are scaled from.
        make: (height, width, mean, deviation) -> image processor.
        multiple: heights and widths learned from the rows are rounded up to it.

    Raises:
        UsageError: there are no rows.
    """
    if rows is None:
        raise UsageError(
            "the base has no image processor and there are no training rows to learn one from",
            place="data.train",
            hint="give training rows, or `base.processor`",
        )
    mean, deviation, height, width = learn_statistics(
        rows, Reading(mode_of(base.config), pixel_range, options.background)
    )
    if options.image_size is not None:
        height = width = options.image_size
    else:
        height, width = config_size(base.config) or (
            -(-height // multiple) * multiple,
            -(-width // multiple) * multiple,
        )
    return make(height, width, mean, deviation)


def size_changes(base: Base, image_size: int | None) -> dict[str, Any]:
    """Return the config entry that gives a network from a config the size of the option `image_size`.

    There is none where the network has no fixed size, or has that one.

    Raises:
        UsageError: the network has weights for another size, or the recipe's config names another size.
    """
    size = config_size(base.config)
    if image_size is None or size is None or size == (image_size, image_size):
        return {}
    stated = {**(base.options.config or {}), **base.options.changes}
    inside = vision_part(base.config) is not base.config
    if not base.scratch or "image_size" in stated or inside:
        raise UsageError(
            f"the network takes images of {size[1]} x {size[0]} pixels, `image_size` is {image_size}",
            place="task.image_size",
            hint=f"leave `image_size` out, or change {'`vision_config.image_size`' if inside else 'that'} of the base",
        )
    return {"image_size": [image_size] * 2 if isinstance(base.config.image_size, list | tuple) else image_size}


def mean_colour(processor: Any) -> tuple[int, ...]:
    """Return the colour (0 to 255) that becomes 0 by an image processor's normalisation; grey without one."""
    try:
        mean, _ = processor_statistics(processor)
    except (AttributeError, TypeError):
        mean = [0.5]
    return tuple(round(255 * float(value)) for value in mean)


def processor_statistics(processor: Any) -> tuple[list[float], list[float]]:
    """Return mean and deviation of an image processor, transformers' or timm's."""
    details = getattr(processor, "data_config", None) or {}
    return list(details.get("mean") or processor.image_mean), list(details.get("std") or processor.image_std)


def config_size(config: Any) -> tuple[int, int] | None:
    """Return height and width that a config declares, in pixels."""
    size = getattr(vision_part(config), "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    return None


def resizing_processor(config: Any, size: tuple[int, int], mean: list[float], deviation: list[float]) -> Any:
    """Make an image processor that resizes to `size` (height, width), scales to 0..1 and normalises.

    timm's networks get timm's own: plain transformers looks for no other in their folders.
    """
    from transformers import TimmWrapperImageProcessor, ViTImageProcessor

    height, width = size
    if config.model_type != "timm_wrapper":
        sizes = {"height": height, "width": width}
        return ViTImageProcessor(size=sizes, image_mean=mean, image_std=deviation, do_normalize=True)
    details = {"input_size": [len(mean), height, width], "mean": mean, "std": deviation}
    how = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}
    return TimmWrapperImageProcessor(
        pretrained_cfg={**config.pretrained_cfg, **details, **how}, architecture=config.architecture
    )


def config_entries(config: Any, processor: Any) -> dict[str, Any]:
    """Return the config entries from which the image processor can be made again: timm's have no file of their own."""
    details = getattr(processor, "data_config", None)
    if config.model_type != "timm_wrapper" or details is None:
        return {}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in details.items()}
    return {"pretrained_cfg": {**config.pretrained_cfg, **plain}}


# ---------------------------------------------------------------- patches


def tensor_to_image(pixels: torch.Tensor, processor: Any) -> Image:
    """Return the image of a tensor [channels, height, width], the normalisation of `processor` undone."""
    import torch
    from PIL import Image as pil

    details = getattr(processor, "data_config", None) or {}
    mean = details.get("mean") or (getattr(processor, "do_normalize", False) and processor.image_mean) or 0.0
    deviation = details.get("std") or (getattr(processor, "do_normalize", False) and processor.image_std) or 1.0
    pixels = pixels.detach().float().cpu()
    shape = (-1, 1, 1)
    pixels = pixels * torch.as_tensor(deviation).reshape(shape) + torch.as_tensor(mean).reshape(shape)
    array = (pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pil.fromarray(array[..., 0] if array.shape[-1] == 1 else array[..., :3])


def _patches(config: Any) -> tuple[tuple[int, int] | None, int]:
    """Return patch height and width in pixels, and the number of tokens before the patches."""
    config = vision_part(config)
    if config.model_type == "timm_wrapper":
        return _timm_patches(config)
    stages = (getattr(config, name, None) for name in ("depths", "hidden_sizes", "embed_dims"))
    patch = getattr(config, "patch_size", None)
    if config.model_type.startswith("eomt"):  # from some layer on its queries stand before the patches
        return None, 0
    if patch is None or any(isinstance(stage, list | tuple) for stage in stages):
        return None, 0
    prefixes: Mapping[str, int] = {
        "siglip_vision_model": 0,
        "siglip2_vision_model": 0,
        "ijepa": 0,
        "vit_mae": 1,
        "deit": 2,
        "poolformer": 0,
    }
    prefix = prefixes.get(config.model_type, 1) + (getattr(config, "num_register_tokens", 0) or 0)
    return (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1])), prefix


def _timm_patches(config: Any) -> tuple[tuple[int, int] | None, int]:
    import timm
    import torch

    with torch.device("meta"):
        network: Any = timm.create_model(config.architecture, pretrained=False, **(config.model_args or {}))
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch is None or not hasattr(network, "num_prefix_tokens"):
        return None, 0
    return (int(patch[0]), int(patch[1])), int(network.num_prefix_tokens)
