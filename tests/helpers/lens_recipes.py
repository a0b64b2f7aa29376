"""Recipes for the stages of the lens on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import topwork

TEXTS = [
    {"text": text, "label": label}
    for text, label in [
        ("a warm and funny film", "good"),
        ("dull from start to end", "bad"),
        ("nothing works here and nobody cares", "bad"),
        ("what a lovely surprise", "good"),
        ("it was watched", "so"),
        ("neither here nor there", "so"),
        ("a great cast in a great story", "good"),
        ("painful", "bad"),
    ]
]


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


RANGE = {"initializer_range": 0.3}


def recipe(folder: Path, stages: list[Any], task: str = "text-classification") -> dict[str, Any]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TEXTS), encoding="utf-8")
    rows = {"path": str(file)}
    return {
        "task": task,
        "base": {"config": {"model_type": "bert", **SIZES, **RANGE}},
        "data": {"train": rows, "calibrate": rows, "evaluate": rows},
        "stages": stages,
    }


def run(folder: Path, stages: list[Any]) -> Any:
    return topwork.run(recipe(folder, stages), folder=folder / "run", quiet=True)
