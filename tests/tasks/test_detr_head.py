"""DETR's transformer as a generic task head: equal to transformers' DETR over the same backbone, on any backbone."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tolerance import close

import topwork
from topwork import RecipeError, UsageError
from topwork_tasks.object_detection.detr_head import DetrHead

SIZE = {"queries": 7, "encoder_layers": 1, "decoder_layers": 2, "width": 32, "attention_heads": 4, "feed_forward": 48}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.fixture
def rows(plugins):
    return plugins.task("object-detection").example_rows()


def build(config, rows, plugins, **options):
    options = {"detr_head": SIZE, "image_size": None if "image_size" in config else 64, **options}
    return topwork.build("object-detection", {"config": config}, rows=rows, plugins=plugins, **options)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_it_is_transformers_detr_on_the_same_map(rows, plugins, auxiliary) -> None:
    from transformers import ConvNextConfig, DetrConfig, DetrForObjectDetection

    work = build(CONVNEXT, rows, plugins, detr_head={**SIZE, "auxiliary_loss": auxiliary})
    head = work.model
    assert isinstance(head, DetrHead) and work.form == "generic"
    backbone = ConvNextConfig(**{k: v for k, v in CONVNEXT.items() if k != "model_type"}, out_features=["stage2"])
    entries = head.detr_config.to_dict()
    plain = DetrForObjectDetection(DetrConfig(**{**entries, "backbone_config": backbone})).eval()
    names = {"backbone.backbone.": "model.backbone.model."}
    outer = ("class_labels_classifier", "bbox_predictor")
    moved = {}
    for name, value in head.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs) if name.startswith(ours) else name
        moved[name if name.startswith((*outer, "model.")) else f"model.{name}"] = value
    found = plain.load_state_dict(moved, strict=True)
    assert not found.missing_keys
    task = work.task
    pixels = torch.randn(3, 3, 64, 96)
    mask = torch.ones(3, 64, 96, dtype=torch.long)
    mask[1, :, 64:] = 0
    mask[2, 32:] = 0
    labels = task.collate(task.encode(rows[1:4], "loss", 0), "loss").inputs["labels"]
    with torch.no_grad():
        ours, theirs = (model(pixel_values=pixels, pixel_mask=mask, labels=labels) for model in (head, plain))
    close(ours.logits, theirs.logits)
    close(ours.pred_boxes, theirs.pred_boxes)
    close(ours.loss, theirs.loss)
    assert ours.loss_dict.keys() == theirs.loss_dict.keys()


def test_padding_changes_nothing(rows, plugins) -> None:
    """Over patches that do not see each other, a padded picture gives what it gives alone."""
    work = build({**VIT, "num_hidden_layers": 1}, rows, plugins)
    vit = work.model.backbone.backbone
    features = torch.randn(1, 32, 4, 4)
    wide = torch.cat([features, torch.randn(1, 32, 4, 2)], dim=3)
    mask = torch.ones(1, 64, 96)
    mask[..., 64:] = 0
    answers = []
    for found, seen, size in ((features, None, 64), (wide, mask, 96)):
        work.model.backbone.forward = lambda pixel_values, found=found: topwork.Features(maps=(found,))
        with torch.no_grad():
            answers.append(work.model(torch.zeros(1, 3, 64, size), seen).pred_boxes)
    assert vit is work.model.backbone.backbone
    close(*answers)


def test_the_lens_finds_its_attention_and_captures_it(rows, plugins) -> None:
    work = build(VIT, rows, plugins)
    look = work.look()
    found = [(layer.side, layer.kind) for layer in look.layers]
    assert found.count(("backbone", "self")) == 2
    assert found.count(("encoder", "self")) == 1
    assert found.count(("decoder", "self")) == found.count(("decoder", "cross")) == 2
    batch = work.task.collate(work.task.encode(rows[1:3], "loss", 0), "loss")
    with torch.no_grad():
        before = work.model(**batch.inputs).logits
        with look.mask_heads({("cross", 0): [0, 1, 2, 3]}):
            masked = work.model(**batch.inputs).logits
    assert not torch.allclose(before, masked)


def test_a_classifiers_image_processor_does_not_cut_objects_off(rows, plugins, tmp_path) -> None:
    from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor

    entries = {key: value for key, value in CONVNEXT.items() if key != "model_type"}
    ConvNextForImageClassification(ConvNextConfig(**entries)).save_pretrained(tmp_path)
    saved = ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.5, image_mean=[0.1] * 3, image_std=[0.7] * 3)
    saved.save_pretrained(tmp_path)
    work = topwork.build("object-detection", str(tmp_path), rows=rows, plugins=plugins, detr_head=SIZE)
    processor = work.task.processor
    assert type(processor).__name__.startswith("DetrImageProcessor")
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.1] * 3, [0.7] * 3)
    dot = Image.new("RGB", (100, 50))
    dot.putpixel((0, 0), (255, 255, 255))
    pixels = work.task.encode([{"image": dot}], "predict", 0)[0].inputs["pixel_values"]
    assert pixels.shape == (3, 64, 64)
    assert pixels[:, 0, 0].min() > pixels[:, 40, 40].max()


def test_its_size_belongs_to_bases_without_a_detector(rows, plugins) -> None:
    yolos = {**VIT, "model_type": "yolos", "image_size": [64, 64], "num_detection_tokens": 5}
    with pytest.raises(UsageError, match="has a detector of its own"):
        build(yolos, rows, plugins)
    with pytest.raises((RecipeError, UsageError), match="multiple of 4"):
        build(VIT, rows, plugins, detr_head={**SIZE, "width": 30})
    with pytest.raises((RecipeError, UsageError), match="querys"):
        build(VIT, rows, plugins, detr_head={"querys": 3})
