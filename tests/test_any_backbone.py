"""Segmenters of transformers over backbones that are not their own: what `backbone_config` names, of transformers or of
timm, learns with the rest of the model."""

from __future__ import annotations

import pytest

import topwork
from dense_models import MASK2FORMER, MASKFORMER, UPERNET
from topwork_tasks.image_segmentation import ImageSegmentation

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
