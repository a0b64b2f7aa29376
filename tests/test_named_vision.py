"""Vision models by name: each is built, trained, evaluated, saved, loaded, scored and pruned, natively or under a
generic task head. `named/vision.json` says which; the README's table is made from it."""

from __future__ import annotations

import json
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch

import topwork

TABLE = json.loads(Path(__file__).with_name("named").joinpath("vision.json").read_text(encoding="utf-8"))
PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CONV = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
DETR = {
    "backbone_config": {**CONV, "out_features": ["stage2"]},
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
#: parameters that cannot get a gradient, and why
_ZERO_QUERIES = "the queries that enter DETR's first decoder layer are zeros, so its values are the bias alone"
_STAGE_NORM = "a norm that belongs to the architecture's own task head; the feature map is read before it"
_CLASS_TOKEN = "the classifier reads the class token alone, whose query is not convolved; the patches' queries end here"
WITHOUT_GRADIENT = {
    "cvt.encoder.stages.2.layers.2.attention.attention.convolution_projection_query.*": _CLASS_TOKEN,
    "*decoder.layers.0.self_attn.v_proj.weight": _ZERO_QUERIES,
    "backbone.backbone.swin.layernorm.*": _STAGE_NORM,
    "backbone.backbone.timm_model.norm.*": _STAGE_NORM,
    "backbone.backbone.timm_model.head.norm.*": _STAGE_NORM,
}
#: attention that the lens refuses to score and prune, in words; everything else it must score and prune
REFUSED = ("CvT", "LeViT")
#: convolutional networks, whose configs name no size of pictures
FREE_SIZE = ("ConvNeXT", "ConvNeXTV2", "CvT", "timm ConvNeXT", "timm ResNet")


def config(model_type: str, **entries: Any) -> dict[str, Any]:
    return {"config": {"model_type": model_type, **entries}}


def timm(architecture: str, **arguments: Any) -> dict[str, Any]:
    entries = {"architecture": architecture, "model_args": arguments}
    return {"config": {"model_type": "timm_wrapper", **entries}}


BASES: dict[str, dict[str, Any]] = {
    "ViT": config("vit", **PLAIN, image_size=32, patch_size=8),
    "DeiT": config("deit", **PLAIN, image_size=32, patch_size=8),
    "ConvNeXT": config("convnext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_scale_init_value=1.0),
    "ConvNeXTV2": config("convnextv2", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "CvT": config("cvt", embed_dim=[8, 16, 32], depth=[1, 2, 3], num_heads=[1, 2, 4], drop_path_rate=[0.0, 0.0, 0.0]),
    "LeViT": config(
        "levit",
        image_size=128,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        drop_path_rate=0,
    ),
    "Swin": config("swin", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4),
    "DETR": config("detr", **DETR),
    "Deformable DETR": config(
        "deformable_detr",
        **{**DETR, "backbone_config": {**CONV, "out_features": ["stage1", "stage2"]}},
        num_feature_levels=2,
    ),
    "RT-DETR": config(
        "rt_detr",
        backbone_config={
            "model_type": "rt_detr_resnet",
            "embedding_size": 16,
            "hidden_sizes": [16, 24, 32],
            "depths": [1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage2", "stage3"],
        },
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=32,
        encoder_in_channels=[24, 32],
        feat_strides=[8, 16],
        encoder_layers=1,
        encode_proj_layers=[1],
        encoder_ffn_dim=32,
        decoder_in_channels=[32, 32],
        d_model=32,
        num_feature_levels=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_ffn_dim=32,
        decoder_layers=2,
        num_queries=12,
        num_denoising=4,
        hidden_expansion=0.5,
    ),
    "YOLOS": config("yolos", **PLAIN, image_size=[64, 64], patch_size=16, num_detection_tokens=6),
    "timm ViT": timm("test_vit", img_size=32),
    "timm ConvNeXT": timm("test_convnext"),
    "timm Swin": timm(
        "swin_tiny_patch4_window7_224", img_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4
    ),
    "timm ResNet": timm("test_resnet"),
}


def built(task: str, family: str, form: str, plugins: Any) -> tuple[topwork.TaskModel, list[dict[str, Any]]]:
    rows = plugins.task(task).example_rows()
    options: dict[str, Any] = {"image_size": 64} if family in FREE_SIZE else {}
    if task == "object-detection" and form == "generic":
        options["detr_head"] = HEAD
    return topwork.build(task, BASES[family], rows=rows, plugins=plugins, **options), rows


def trained(work: topwork.TaskModel, rows: list[dict[str, Any]]) -> tuple[list[float], set[str]]:
    """Losses of 20 steps on one batch, and the names of the parameters that got a gradient in one of them."""
    torch.manual_seed(0)  # dropout and denoising draw from it
    model, task = work.model.train(), work.task
    detects = task.name == "object-detection"
    batch = task.collate(task.encode(rows[1:2] if detects else rows, "train", 0), "train")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2 if detects else 3e-3)
    losses, moved = [], set()
    for _ in range(20):
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        losses.append(float(loss.detach()))
        moved |= {name for name, entry in model.named_parameters() if entry.grad is not None and entry.grad.any()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1 if detects else 1.0)  # 0.1 as in DETR's paper
        optimizer.step()
    model.eval()
    return losses, moved


def test_the_table_names_what_has_to_work() -> None:
    required = {("image-classification", name) for name in ("ViT", "DeiT", "ConvNeXT", "ConvNeXTV2", "CvT", "LeViT")}
    required |= {("image-classification", name) for name in BASES if name.startswith(("Swin", "timm"))}
    required |= {("object-detection", name) for name in ("DETR", "Deformable DETR", "RT-DETR", "YOLOS")}
    assert required <= {(entry["task"], entry["family"]) for entry in TABLE if entry["form"] == "native"}
    assert {entry["family"] for entry in TABLE} == set(BASES)


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: f"{entry['task']}-{entry['family'].replace(' ', '-')}")
def test_it_works_from_build_to_pruning(entry, plugins, tmp_path) -> None:
    work, rows = built(entry["task"], entry["family"], entry["form"], plugins)
    assert work.form == entry["form"]
    losses, moved = trained(work, rows)
    assert losses[-1] < 0.5 * losses[0]
    names = {name for name, parameter in work.model.named_parameters() if parameter.requires_grad}
    left = {name for name in names - moved if not any(fnmatchcase(name, known) for known in WITHOUT_GRADIENT)}
    assert not left
    assert all(parameter.requires_grad for parameter in work.model.parameters())

    metrics = work.evaluate(rows[:4])
    assert set(work.task.metric().keys) <= set(metrics)
    same_after_loading(work, rows[:4], tmp_path / "whole", plugins)
    if entry["form"] == "native" and entry["family"] in ("ConvNeXT", "ConvNeXTV2", "timm ConvNeXT", "timm ResNet"):
        assert not work.look().layers
    elif entry["family"] in REFUSED:
        with suppress(topwork.Refused, topwork.UsageError):
            scored_and_pruned(work, rows, tmp_path / "pruned", plugins)
    else:
        scored_and_pruned(work, rows, tmp_path / "pruned", plugins)


def scored_and_pruned(work: topwork.TaskModel, rows: list[dict[str, Any]], folder: Path, plugins: Any) -> None:
    scored = work.apply("head_importance", {"calibrate": rows[:2]}, rows=2)
    assert sum(len(layer["scores"]) for layer in scored["layers"]) == sum(layer.heads for layer in work.look().layers)
    layer = max((one for one in work.look().layers if one.prunable), key=lambda one: one.heads)
    pruned = work.apply("prune_heads", {"calibrate": rows[:2]}, heads={layer.path: [0]})
    assert pruned["heads_after"] == pruned["heads_before"] - 1
    assert pruned["check"]["difference"] <= pruned["check"]["tolerance"]
    same_after_loading(work, rows[:4], folder, plugins)


def same_after_loading(work: topwork.TaskModel, rows: list[dict[str, Any]], folder: Path, plugins: Any) -> None:
    work.save(folder)
    assert (folder / "model.safetensors").exists() == (work.form == "native" and folder.name == "whole")
    found = topwork.load(folder, plugins=plugins).predict(rows)
    for one, other in zip(work.predict(rows), found, strict=True):
        assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
        assert torch.allclose(torch.tensor(one.scores), torch.tensor(other.scores), atol=1e-5)
        if hasattr(one, "boxes"):
            assert abs(one.boxes - other.boxes).max() < 1e-3  # of a pixel
