"""Segmenters of transformers over backbones that are not their own (what `backbone_config` names, of transformers or of
timm, learns with the rest of the model), and task heads of ours on backbones that have none."""

from __future__ import annotations

import pytest
from dense_models import MASK2FORMER, MASK_HEAD, MASKFORMER, UPERNET
from named import vision
from named.text import config

import topwork
from topwork_tasks.image_segmentation.task import ImageSegmentation

STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES = {
    "convnext": {
        "model_type": "convnext",
        "hidden_sizes": [8, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_stages": 4,
        "layer_scale_init_value": 1.0,
        "out_features": STAGES,
    },
    "timm convnext": {"model_type": "timm_backbone", "backbone": "test_convnext", "out_indices": [0, 1, 2, 3]},
    "timm resnet": {"model_type": "timm_backbone", "backbone": "test_resnet", "out_indices": [1, 2, 3, 4]},
}
HEADS = {
    "upernet": (UPERNET, "semantic"),
    "mask2former": (MASK2FORMER, "instance"),
    "maskformer": (MASKFORMER, "panoptic"),
}


PAIRS = [
    *(("upernet", backbone) for backbone in BACKBONES),
    ("mask2former", "timm convnext"),
    ("maskformer", "timm resnet"),
]


@pytest.mark.parametrize(("head", "backbone"), PAIRS)
def test_a_segmenter_stands_on_it(head, backbone, tmp_path, plugins) -> None:
    config, kind = HEADS[head]
    config = {**config, "backbone_config": BACKBONES[backbone]}
    if head == "upernet":
        widths = {"convnext": 16, "timm convnext": 48, "timm resnet": 192}
        config["auxiliary_in_channels"] = widths[backbone]
    rows = ImageSegmentation.example_rows()[:4]
    work = topwork.build("image-segmentation", {"config": config}, rows=rows, plugins=plugins, kind=kind)
    assert work.form == "native"
    before = {name: value.detach().clone() for name, value in work.model.named_parameters()}
    work.train(rows, steps=2, batch_size=4, learning_rate=1e-2)
    moved = [name for name, value in work.model.named_parameters() if not value.equal(before[name])]
    inside = [name for name in before if "backbone." in name or "encoder." in name.partition("pixel_level_module.")[2]]
    assert len(set(moved) & set(inside)) > 0.5 * len(inside) > 0
    assert len(moved) > 0.8 * len(before)
    work.save(tmp_path / "model")
    assert repr(topwork.load(tmp_path / "model", plugins=plugins).predict(rows)) == repr(work.predict(rows))


FOUR = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4]}
BASES = {
    "LeViT": vision.BASES["LeViT"],
    "CvT": vision.BASES["CvT"],
    "Swinv2": config("swinv2", vision.SWIN),
    "PVT": config("pvt", FOUR, mlp_ratios=[2] * 4, image_size=64),
    "DINOv2 with registers": config(
        "dinov2_with_registers", hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=32, patch_size=8
    ),
    # pictures of its own size alone, no multiple of 32; a level of one pixel, normalised alone, would not learn
    "timm DINOv2": vision.timm("vit_small_patch14_reg4_dinov2", img_size=56, depth=2, embed_dim=32, num_heads=4),
}
TASK_HEADS = {
    "dense": ("depth-estimation", {"decoder": "pyramid"}),
    "dpt": ("depth-estimation", {"decoder": "dpt"}),
    "masks": ("image-segmentation", {"kind": "instance", "mask_head": MASK_HEAD}),
    "detr": ("object-detection", {"detr_head": vision.HEAD}),
}
ON_THEM = [
    *((head, "LeViT") for head in ("dpt", "masks")),
    ("dpt", "CvT"),
    ("masks", "timm DINOv2"),
    ("masks", "PVT"),
    ("dense", "Swinv2"),
    ("detr", "DINOv2 with registers"),
]


@pytest.mark.parametrize(("head", "base"), ON_THEM)
def test_a_task_head_of_ours_stands_on_it(head, base, tmp_path, plugins) -> None:
    task, options = TASK_HEADS[head]
    rows = plugins.task(task).example_rows()[:3]
    if base == "CvT":  # tells no size of its own
        options = {**options, "image_size": 64}
    work = topwork.build(task, BASES[base], rows=rows, plugins=plugins, **options)
    assert work.form == "generic"
    before = {name: value.detach().clone() for name, value in work.model.named_parameters()}
    work.train(rows, steps=1, batch_size=3, learning_rate=1e-2)
    still = [name for name, value in work.model.named_parameters() if value.equal(before[name])]
    inside = [name for name in before if name.startswith("backbone.")]
    assert len(set(still) & set(inside)) < 0.05 * len(inside)
    assert len(still) < 0.05 * len(before)
    work.save(tmp_path / "model")
    assert repr(topwork.load(tmp_path / "model", plugins=plugins).predict(rows)) == repr(work.predict(rows))
