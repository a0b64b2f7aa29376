"""Vision families, and labels and objects on them; pixels are in `dense.py`."""

from __future__ import annotations

from typing import Any

import dense_models
import detector_configs
from named.harness import Exempt, Named, Settings, cases
from named.text import config

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DETR = {
    "backbone_config": {**detector_configs.CONV, "out_features": ["stage2"]},
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 6,
    "dropout": 0.0,
}
#: DETR's transformer on backbones that have no detector of their own
HEAD = {
    "queries": 6,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "width": 32,
    "attention_heads": 4,
    "feed_forward": 32,
    "dropout": 0.0,
}
RT_DETR = {
    **{key: value for key, value in detector_configs.RT_DETR.items() if key != "model_type"},
    "freeze_backbone_batch_norms": False,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
LEVIT = {
    "image_size": 128,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [2, 3, 4],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
    "drop_path_rate": 0,
}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}


def timm(architecture: str, **arguments: Any) -> dict[str, Any]:
    """A base of timm, without its weights."""
    return config("timm_wrapper", architecture=architecture, model_args=arguments)


BASES = {
    "ViT": config("vit", PLAIN, image_size=32, patch_size=8),
    "DeiT": config("deit", PLAIN, image_size=32, patch_size=8),
    "ConvNeXT": config("convnext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_scale_init_value=1.0),
    "ConvNeXTV2": config("convnextv2", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "CvT": config("cvt", embed_dim=[8, 16, 32], depth=[1, 2, 3], num_heads=[1, 2, 4], drop_path_rate=[0.0, 0.0, 0.0]),
    "LeViT": config("levit", LEVIT),
    "Swin": config("swin", SWIN),
    "DETR": config("detr", DETR),
    "Deformable DETR": config(
        "deformable_detr",
        DETR,
        backbone_config={**detector_configs.CONV, "out_features": ["stage1", "stage2"]},
        num_feature_levels=2,
    ),
    "RT-DETR": config("rt_detr", RT_DETR),
    "YOLOS": config("yolos", PLAIN, image_size=[64, 64], patch_size=16, num_detection_tokens=6),
    "SegFormer": {"config": dense_models.SEGFORMER},
    "BEiT": {"config": dense_models.BEIT},
    "timm ViT": timm("test_vit", img_size=32),
    "timm ConvNeXT": timm("test_convnext"),
    "timm Swin": timm(
        "swin_tiny_patch4_window7_224", **{name: SWIN[name] for name in SWIN if name[:5] not in ("image", "patch")}
    ),
    "timm ResNet": timm("test_resnet"),
}
BASES["timm Swin"]["config"]["model_args"]["img_size"] = 32
CONVOLUTIONS = ["ConvNeXT", "ConvNeXTV2", "timm ConvNeXT", "timm ResNet"]
TRANSFORMERS = ["ViT", "DeiT", "CvT", "LeViT", "Swin", "timm ViT", "timm Swin"]
#: those that learn in steps too few for their running statistics
BATCH_NORM = ["LeViT", "timm ResNet"]
BACKBONES = [*TRANSFORMERS, *CONVOLUTIONS]
NAMED: Named = {
    "image-classification": {"native": [*BACKBONES, "SegFormer", "BEiT"]},
    "object-detection": {"native": ["DETR", "Deformable DETR", "RT-DETR", "YOLOS"], "generic": BACKBONES},
}
SETTINGS: Settings = [
    ("image-classification/*", {"training": {"learning_rate": 3e-3}}),
    ("object-detection/*", {"rows": [1], "training": {"clip": 0.1}}),  # the bound of DETR's paper
    ("object-detection/*/generic", {"options": {"detr_head": HEAD}}),
    *[(f"*/{family}/*", {"batch_norm": True}) for family in BATCH_NORM],
    *[(f"*/{family}/*", {"options": {"image_size": 64}}) for family in [*CONVOLUTIONS, "CvT", "SegFormer"]],
    *[(f"image-classification/{family}/*", {"attention": False}) for family in CONVOLUTIONS],
]
ZERO_QUERIES = "the queries that enter DETR's first decoder layer are zeros, so its values are the bias alone"
STAGE_NORM = "a norm that belongs to the architecture's own task head; the feature map is read before it"
_CLASS_TOKEN = "the classifier reads the class token alone, whose query is not convolved; the patches' queries end here"
UNLEARNED = [
    Exempt(
        "image-classification/CvT/*", "cvt.encoder.stages.2.layers.2.*.convolution_projection_query.*", _CLASS_TOKEN
    ),
    Exempt("object-detection/DETR/*", "*decoder.layers.0.self_attn.v_proj.weight", ZERO_QUERIES),
    Exempt("object-detection/*/generic", "*decoder.layers.0.self_attn.v_proj.weight", ZERO_QUERIES),
    Exempt("object-detection/Swin/*", "backbone.backbone.swin.layernorm.*", STAGE_NORM),
    Exempt("object-detection/timm Swin/*", "backbone.backbone.timm_model.norm.*", STAGE_NORM),
    Exempt("object-detection/timm ConvNeXT/*", "backbone.backbone.timm_model.head.norm.*", STAGE_NORM),
]
REFUSED: list[Exempt] = []
CASES = cases(NAMED, BASES, SETTINGS, UNLEARNED, REFUSED)
