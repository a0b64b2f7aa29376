"""Families for a label or a distance of every pixel, natively or by a dense task head on any backbone."""

from __future__ import annotations

import dense_models
from named import vision
from named.harness import Exempt, Named, Settings, cases

SWIN = {**dense_models.SWIN, "drop_path_rate": 0.0}
#: semantic, and the other kinds of segmentation
MASK2FORMER = ["Mask2Former", "Mask2Former (instance)", "Mask2Former (panoptic)"]
MASKFORMER = ["MaskFormer", "MaskFormer (panoptic)"]
#: with dropout its queries change places from step to step, and the loss with them; wide enough to tell them apart
QUERIES = {
    "init_std": 0.1,
    "decoder_config": {**dense_models.MASKFORMER["decoder_config"], "dropout": 0.0, "init_std": 0.2},
}
BASES = {
    **{family: vision.BASES[family] for family in vision.BACKBONES},
    "SegFormer": vision.BASES["SegFormer"],
    "UperNet": {"config": dense_models.UPERNET},
    "BEiT": vision.BASES["BEiT"],
    **{family: {"config": {**dense_models.MASK2FORMER, "backbone_config": SWIN}} for family in MASK2FORMER},
    **{family: {"config": {**dense_models.MASKFORMER, "backbone_config": SWIN, **QUERIES}} for family in MASKFORMER},
    "DPT": {"config": {**dense_models.DPT, "initializer_range": 0.1}},
    "GLPN": {"config": dense_models.GLPN},
    "Depth Anything": {"config": {**dense_models.DEPTH_ANYTHING, "initializer_range": 0.1}},
}
NAMED: Named = {
    "image-segmentation": {
        "native": ["SegFormer", "UperNet", "BEiT", "DPT", *MASK2FORMER, *MASKFORMER],
        "generic": vision.BACKBONES,
    },
    "depth-estimation": {"native": ["GLPN", "DPT", "Depth Anything"], "generic": vision.BACKBONES},
}
SETTINGS: Settings = [
    ("*", {"rows": [0, 1, 2]}),
    ("depth-estimation/*", {"rows": [0, 1], "training": {"learning_rate": 5e-3}}),
    ("depth-estimation/GLPN/*", {"training": {"learning_rate": 3e-3}}),
    ("depth-estimation/timm ViT/*", {"training": {"learning_rate": 2e-3}}),
    ("depth-estimation/DPT/*", {"rows": [0]}),
    ("image-segmentation/Mask*", {"rows": [1], "training": {"learning_rate": 3e-3, "clip": 0.01}}),
    ("image-segmentation/MaskFormer*", {"training": {"clip": 0.1}}),
    *[(f"*({kind})/*", {"options": {"kind": kind}}) for kind in ("instance", "panoptic")],
    *[(f"*/{family}/*", {"batch_norm": True}) for family in vision.BATCH_NORM],
    *[(f"*/{family}/*", {"options": {"image_size": 64}}) for family in [*vision.CONVOLUTIONS, "CvT"]],
    *[(f"*/{family}/*", {"attention": False}) for family in [*vision.CONVOLUTIONS, "UperNet"]],  # UperNet on a ResNet
]
_ONE_MAP = "the first fusion layer is given one map, so the half of it that takes a second has nothing to do"
_ONE_EARLIER = "transformers reads the states in front of the layers that `out_indices` names"
_MASKED = "stands for patches that are hidden when such a network is pretrained"
UNLEARNED = [
    Exempt("image-segmentation/BEiT/*", "beit.layers.3.*", _ONE_EARLIER),
    Exempt("*/DPT/*", "dpt.layernorm.*", vision.STAGE_NORM),
    Exempt("*/DPT/*", "neck.fusion_stage.layers.0.residual_layer1.*", _ONE_MAP),
    Exempt("*/Depth Anything/*", "neck.fusion_stage.layers.0.residual_layer1.*", _ONE_MAP),
    Exempt("*/Depth Anything/*", "backbone.embeddings.mask_token", _MASKED),
    Exempt("*/Swin/generic", "backbone.backbone.swin.layernorm.*", vision.STAGE_NORM),
    Exempt("*/timm Swin/generic", "backbone.backbone.timm_model.norm.*", vision.STAGE_NORM),
    Exempt("*/timm ConvNeXT/generic", "backbone.backbone.timm_model.head.norm.*", vision.STAGE_NORM),
    Exempt("image-segmentation/Mask2Former*", "*.swin.layernorm.*", vision.STAGE_NORM),
    Exempt("image-segmentation/MaskFormer*", "*.encoder.model.layernorm.*", vision.STAGE_NORM),
    Exempt("image-segmentation/MaskFormer*", "*decoder.layers.0.self_attn.v_proj.weight", vision.ZERO_QUERIES),
]
CASES = cases(NAMED, BASES, SETTINGS, UNLEARNED)
