"""Cases of vision tasks that must learn their rows."""

from __future__ import annotations

from dense_models import GLPN, SEGFORMER, VIT
from learning import Case
from named.vision import BASES

WIDE_VIT = {"config": {**VIT, "hidden_size": 32, "patch_size": 4, "image_size": 64}}


UPERNET = {
    "config": {
        "model_type": "upernet",
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64, 96],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "hidden_size": 64,
    }
}


WIDE_SEGFORMER = {"config": {**SEGFORMER, "hidden_sizes": [32, 64, 64, 64], "decoder_hidden_size": 64}}


WIDE_GLPN = {"config": {**GLPN, "hidden_sizes": [16, 32, 32, 32], "decoder_hidden_size": 32}}


def dense(task: str, base: dict, key: str, bound: float, rate: float, steps: int) -> Case:
    return Case(task, base, key, bound, {"steps": steps, "learning_rate": rate, "schedule": "cosine", "warmup": 20})


CASES = {
    "image-classification": Case(
        "image-classification", BASES["ViT"], "accuracy", 1, {"steps": 80, "learning_rate": 3e-3}
    ),
    "object-detection": Case(
        "object-detection",
        BASES["RT-DETR"],
        "map50",
        0.9,
        {"steps": 500, "learning_rate": 2e-3, "schedule": "cosine"},
    ),
    "image-segmentation, upernet": dense("image-segmentation", UPERNET, "mean_iou", 0.9, 2e-3, 400),
    "image-segmentation, segformer": dense("image-segmentation", WIDE_SEGFORMER, "mean_iou", 0.9, 3e-3, 700),
    "image-segmentation, dense head": dense("image-segmentation", WIDE_VIT, "mean_iou", 0.9, 3e-3, 150),
    "depth-estimation, glpn": dense("depth-estimation", WIDE_GLPN, "abs_rel", 0.05, 5e-3, 400),
    "depth-estimation, dense head": dense("depth-estimation", WIDE_VIT, "abs_rel", 0.05, 3e-3, 400),
}
