"""Folders as transformers 4 wrote them after `model.prune_heads`, and what their tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import topwork
from topwork import load_plugins

HEADS = {0: [1, 3], 2: [0]}
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
RANGE: dict[str, Any] = {"initializer_range": 0.3}
#: type: task, config, where an attention stands, what loses rows, what loses columns; names are those of version 4
TYPES: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...], str]] = {
    "bert": ("text-classification", {**SIZES, **RANGE}, "bert.encoder.layer.{}.attention.",
             ("self.query", "self.key", "self.value"), "output.dense"),
    "roberta": ("fill-mask", {**SIZES, **RANGE}, "roberta.encoder.layer.{}.attention.",
                ("self.query", "self.key", "self.value"), "output.dense"),
    "distilbert": ("token-classification", {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 40, **RANGE},
                   "distilbert.transformer.layer.{}.attention.", ("q_lin", "k_lin", "v_lin"), "out_lin"),
    "vit": ("image-classification", {**SIZES, **RANGE, "image_size": 32, "patch_size": 8},
            "vit.encoder.layer.{}.attention.", ("attention.query", "attention.key", "attention.value"), "output.dense"),
    "gpt2": ("text-generation", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, **RANGE},
             "transformer.h.{}.attn.", ("c_attn",), "c_proj"),
}  # fmt: skip


def rows_of(task: str) -> list[dict[str, Any]]:
    return load_plugins().task(task).example_rows()


def written_by_version_4(kind: str, folder: Path) -> topwork.TaskModel:
    """A folder as transformers 4 wrote it after `model.prune_heads(HEADS)`, and the whole model."""
    task, config, place, rows, columns = TYPES[kind]
    whole = topwork.build(task, {"config": {"model_type": kind, **config}}, rows=rows_of(task), seed=1)
    whole.save(folder)
    for name in ("topwork.json", "README.md"):
        (folder / name).unlink()
    tensors = load_file(folder / "model.safetensors")
    for layer, gone in HEADS.items():
        kept = torch.tensor([8 * head + i for head in range(4) if head not in gone for i in range(8)])
        for name in rows:
            for part in ("weight", "bias"):
                key = f"{place.format(layer)}{name}.{part}"
                if kind == "gpt2":  # a Conv1D: queries, keys and values beside each other in the last dimension
                    three = torch.cat([kept, kept + 32, kept + 64])
                    tensors[key] = tensors[key][..., three].contiguous()
                else:
                    tensors[key] = tensors[key][kept].contiguous()
        key = f"{place.format(layer)}{columns}.weight"
        tensors[key] = (tensors[key][kept] if kind == "gpt2" else tensors[key][:, kept]).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder, pruned_heads={str(layer): gone for layer, gone in HEADS.items()}, transformers_version="4.57.1")
    return whole


def edit(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def losses(work: topwork.TaskModel, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return work.task.row_losses(work.model, batch)


def batch_of(work: topwork.TaskModel) -> Any:
    return work.task.collate(work.task.encode(rows_of(work.task.name), "loss", 0), "loss")
