"""Images as a network takes them: the image processor, sizes, costs, and which positions are patches.

`ImageInputs` has the same methods as the front end of the audio tasks. Opening of files is in `images`, stacking in
`batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from topwork import Base, DataError, Row, Units, UsageError
from topwork_tasks._vision.images import learn_statistics, mode_of, open_image, tensor_to_image

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

#: pixels of a batch for predictions on a CPU
_CPU_PIXELS = 2**19


class ImageInputs:
    """Images of rows -> inputs of a network.

    Args:
        processor: image processor of transformers or timm.
        config: the base's config.
        process: (image, *targets) -> tensors of one image, by name; without it `pixel_values` alone.

    Attributes:
        mode: PIL mode of the network's images.
    """

    def __init__(self, processor: Any, config: Any, process: Callable[..., dict[str, Any]] | None = None) -> None:
        self.processor, self.config = processor, config
        self.mode = mode_of(config)
        self._process = process or self._pixel_values

    def _pixel_values(self, image: Any) -> dict[str, Any]:
        return {"pixel_values": self.processor(images=image, return_tensors="pt")["pixel_values"][0]}

    def open(self, row: Row, index: int | None, mode: str | None = None) -> Image:
        """Open a row's image; see `open_image`."""
        return open_image(row.get("image"), index, "image", mode or self.mode)

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
        """Return the pixels of a batch for predictions: on a CPU few images, whose maps stay in the cache; but two of
        the usual sizes, for torch resizes the maps of a single image up to ten times as slowly."""
        return _CPU_PIXELS if device == "cpu" else None

    def units(self, base: Base, pixels: torch.Tensor) -> Units:
        """Return the patches of a plain vision transformer, with class tokens and registers; the image alone for any
        other network.

        Args:
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


def learn_processor(
    rows: Any,
    base: Base,
    image_size: int | None,
    make: Callable[[int, int, list[float], list[float]], Any],
    multiple: int = 1,
) -> Any:
    """Make an image processor for a base without one, from the mean and deviation of the rows.

    Args:
        image_size: option of the task; else the size in the base's config, else the median of the rows.
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
    mean, deviation, height, width = learn_statistics(rows, mode_of(base.config))
    if image_size is not None:
        height = width = image_size
    else:
        height, width = config_size(base.config) or (
            -(-height // multiple) * multiple,
            -(-width // multiple) * multiple,
        )
    return make(height, width, mean, deviation)


def processor_statistics(processor: Any) -> tuple[list[float], list[float]]:
    """Return mean and deviation of an image processor, transformers' or timm's."""
    details = getattr(processor, "data_config", None) or {}
    return list(details.get("mean") or processor.image_mean), list(details.get("std") or processor.image_std)


def config_size(config: Any) -> tuple[int, int] | None:
    """Return height and width that a config declares, in pixels."""
    size = getattr(config, "image_size", None)
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


def _patches(config: Any) -> tuple[tuple[int, int] | None, int]:
    """Return patch height and width in pixels, and the number of tokens before the patches."""
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
