"""Which positions of a vision transformer are patches of the picture, for whoever shows or measures attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork import Base, Units
from topwork_tasks._vision.images import picture_of

if TYPE_CHECKING:
    import torch


def patch_units(base: Base, pixels: torch.Tensor, processor: Any) -> Units:
    """The patches of a plain vision transformer, with its class tokens and registers; of any other network only the
    picture is known.

    Args:
        pixels: [channels, height, width], as the network gets it.
    """
    config = base.config
    image = picture_of(pixels, processor)
    patch, prefix = _patches(config)
    if patch is None:
        return Units("patch", image=image)
    grid = (pixels.shape[-2] // patch[0], pixels.shape[-1] // patch[1])
    return Units("patch", special=tuple(range(prefix)), grid=grid, image=image)


def _patches(config: Any) -> tuple[tuple[int, int] | None, int]:
    """Patch height and width in pixels, and the number of tokens in front that are no patches."""
    if config.model_type == "timm_wrapper":
        return _timm_patches(config)
    stages = (getattr(config, name, None) for name in ("depths", "hidden_sizes", "embed_dims"))
    patch = getattr(config, "patch_size", None)
    if config.model_type.startswith("eomt"):  # from some layer on its queries stand in front of the patches
        return None, 0
    if patch is None or any(isinstance(entry, list | tuple) for entry in stages):
        return None, 0
    without = {
        "siglip_vision_model": 0,
        "siglip2_vision_model": 0,
        "ijepa": 0,
        "vit_mae": 1,
        "deit": 2,
        "poolformer": 0,
    }
    prefix = without.get(config.model_type, 1) + (getattr(config, "num_register_tokens", 0) or 0)
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
