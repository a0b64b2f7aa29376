"""Losses that are divided by boxes or masks ask no other process: each has another number of rows, and would wait."""

from __future__ import annotations

import sys

import pytest
import torch
from dense_models import MASK2FORMER, MASKFORMER
from detector_configs import D_FINE, DETR, RT_DETR
from tiny_bases import VIT, YOLOS

import topwork

LW_DETR = {
    "model_type": "lw_detr", "num_queries": 6, "group_detr": 1, "d_model": 16, "decoder_layers": 1,
    "decoder_ffn_dim": 16, "decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2, "decoder_n_points": 2,
    "projector_scale_factors": [1.0],
    "backbone_config": {"model_type": "lw_detr_vit", "hidden_size": 16, "num_hidden_layers": 2,
                        "num_attention_heads": 2,
                        "image_size": 64, "patch_size": 16, "pretrain_image_size": 64,
                        "num_windows": 1, "window_block_indices": [0], "out_indices": [2]},
}  # fmt: skip
HEAD = {"queries": 6, "width": 16, "feed_forward": 16, "attention_heads": 2, "decoder_layers": 2}
CASES = {
    "detr": ("object-detection", {"config": DETR}, {}),
    "yolos": ("object-detection", YOLOS, {}),
    "generic": ("object-detection", VIT, {"detr_head": HEAD}),
    "rt_detr": ("object-detection", {"config": RT_DETR}, {}),
    "d_fine": ("object-detection", {"config": D_FINE}, {}),
    "lw_detr": ("object-detection", {"config": LW_DETR}, {}),
    "mask2former": ("image-segmentation", {"config": MASK2FORMER}, {}),
    "maskformer": ("image-segmentation", {"config": MASKFORMER}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_no_loss_waits_for_other_processes(name, plugins, monkeypatch) -> None:
    from accelerate import PartialState

    def waits(*_: object, **__: object) -> None:
        raise AssertionError("waits for the other processes")

    task, base, options = CASES[name]
    rows = plugins.task(task).example_rows()
    work = topwork.build(task, base, rows=rows, plugins=plugins, **options)
    expected = {}
    for mode in ("train", "loss"):
        items = [item for index, row in enumerate(rows[:3]) for item in work.task.encode([row], mode, index)]
        batch = work.task.collate(items, mode)
        work.model.train(mode == "train")
        for phase in ("alone", "of two"):
            if phase == "of two":
                PartialState()
                for module in list(sys.modules.values()):
                    if getattr(module, "__name__", "").startswith("transformers.") and hasattr(module, "PartialState"):
                        monkeypatch.setattr(module, "reduce", waits, raising=False)
                    if getattr(module, "__name__", "").startswith("transformers.loss.loss_"):
                        monkeypatch.setattr(module, "_is_torch_distributed_initialized", lambda: True, raising=False)
                monkeypatch.setattr(torch.distributed, "all_reduce", waits)
                monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
            torch.manual_seed(0)
            terms = work.task.loss_terms(work.model, batch)
            losses = work.task.row_losses(work.model, batch) if mode == "loss" else terms
            found = [float(loss) for loss in (*terms, *losses)]
            assert expected.setdefault(mode, found) == pytest.approx(found, rel=1e-5)
        monkeypatch.undo()
