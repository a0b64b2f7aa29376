"""Families for a label or a distance of every pixel, natively or by a dense task head on any backbone."""

from __future__ import annotations

import dense_models
from named import vision
from named.harness import Exempt, Named, Settings, cases

SWIN = {**dense_models.SWIN, "drop_path_rate": 0.0}
BASES = {
    **{family: vision.BASES[family] for family in vision.BACKBONES},
    "SegFormer": vision.BASES["SegFormer"],
    "UperNet": {"config": dense_models.UPERNET},
    "BEiT": vision.BASES["BEiT"],
    "Mask2Former": {"config": {**dense_models.MASK2FORMER, "backbone_config": SWIN}},
    "DPT": {"config": {**dense_models.DPT, "initializer_range": 0.1}},
    "GLPN": {"config": dense_models.GLPN},
    "Depth Anything": {"config": {**dense_models.DEPTH_ANYTHING, "initializer_range": 0.1}},
}
NAMED: Named = {
    "image-segmentation": {
        "native": ["SegFormer", "UperNet", "BEiT", "DPT", "Mask2Former"],
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
    ("image-segmentation/Mask2Former/*", {"rows": [1], "training": {"learning_rate": 3e-3, "clip": 0.01}}),
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
    Exempt("image-segmentation/Mask2Former/native", "*.swin.layernorm.*", vision.STAGE_NORM),
]
CASES = cases(NAMED, BASES, SETTINGS, UNLEARNED)
