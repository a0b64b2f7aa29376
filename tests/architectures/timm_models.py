"""One model of each transformer family of timm, and what makes it small. Its model type here is "timm/<name>"."""

from __future__ import annotations

from typing import Any

import torch

from architectures import shrink

_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": _VIT,
    "deit_tiny_distilled_patch16_224": _VIT,
    "beit_base_patch16_224": _VIT,
    "eva02_tiny_patch14_224": _VIT,
    "vit_relpos_small_patch16_224": _VIT,
    "samvit_base_patch16": {**_VIT, "img_size": 64, "window_size": 4, "global_attn_indexes": (1,)},
    "vit_tiny_r_s16_p8_224": {"img_size": 64},
    "cait_xxs24_224": {**_VIT, "depth_token_only": 2},
    "coat_tiny": {"img_size": 64},
    "convit_tiny": _VIT,
    "crossvit_tiny_240": {"depth": [[1, 2, 0], [1, 2, 0]]},
    "davit_tiny": {"img_size": 64, "depths": (1, 1, 2, 1)},
    "edgenext_xx_small": {"img_size": 64},
    "efficientformer_l1": {},
    "efficientformerv2_s0": {"img_size": 64},
    "efficientvit_m0": {},
    "efficientvit_b0": {"img_size": 64},
    "fastvit_sa12": {"img_size": 64},
    "gcvit_xxtiny": {},
    "hiera_tiny_224": {"stages": (1, 1, 2, 1)},
    "hieradet_small": {"img_size": 64},
    "levit_128s": {},
    "maxvit_rmlp_pico_rw_256": {"img_size": 128},
    "mobilevit_xxs": {"img_size": 64},
    "mvitv2_tiny": {},
    "nest_tiny": {},
    "nextvit_small": {},
    "pit_ti_224": {},
    "pvt_v2_b0": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "window_size": 7, "depths": (2, 1)},
    "swinv2_tiny_window8_256": {"img_size": 64, "window_size": 4, "depths": (2, 1)},
    "swinv2_cr_tiny_224": {"img_size": 64, "depths": (2, 1)},
    "tiny_vit_5m_224": {"depths": (1, 1, 2, 1)},
    "tnt_s_legacy_patch16_224": {"depth": 2},
    "twins_pcpvt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "twins_svt_small": {"img_size": 64, "depths": (1, 1, 2, 1)},
    "visformer_tiny": {"img_size": 64},
    "vitamin_small_224": {"img_size": 64},
    "volo_d1_224": {},
    "xcit_nano_12_p16_224": {**_VIT, "num_heads": 4},
    "naflexvit_base_patch16_gap": {"embed_dim": 32, "depth": 2, "num_heads": 4},
}


def takes_sizes(name: str) -> bool:
    """Whether a family is a plain vision transformer, of any width."""
    return "embed_dim" in FAMILIES.get(name, {})


def options_of(name: str) -> dict[str, Any]:
    """What makes a model of a family small, in the sizes of `shrink` where it takes them."""
    options = FAMILIES.get(name, {})
    if not takes_sizes(name):
        return options
    return {**options, "embed_dim": shrink.WIDTH, "num_heads": shrink.HEADS, "depth": shrink.LAYERS}


def tiny(name: str) -> tuple[Any, dict[str, Any]]:
    """A small random model of timm in evaluation mode, and a batch of two images.

    Raises:
        Exception: whatever stopped it.
    """
    import timm

    torch.manual_seed(0)
    options = options_of(name)
    try:
        model = timm.create_model(name, num_classes=3, **options)
    except TypeError:
        model = timm.create_model(name, num_classes=3, **{k: v for k, v in options.items() if k != "img_size"})
    size = options.get("img_size") or model.pretrained_cfg["input_size"][-1]
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    return model.eval(), {"x": image}
