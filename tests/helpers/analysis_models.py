"""A tiny text classifier for the analyses, whose predictions are the labels of its rows: its accuracy is 1."""

from __future__ import annotations

import random
from typing import Any

import torch

import topwork

WORDS = ("river", "stone", "cloud", "green", "slow", "bird", "night", "paper", "tall", "warm", "sea", "bread")
BERT: dict[str, Any] = {
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "initializer_range": 0.5,
        "max_position_embeddings": 64,
    }
}


def sentences(count: int, seed: int = 0) -> list[str]:
    """Random sentences of four to nine words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) for _ in range(count)]


def classifier(count: int = 48, seed: int = 0) -> tuple[Any, list[dict[str, Any]]]:
    """A task model and its rows: the columns text, label (what the model predicts) and half ("first" or "second")."""
    texts = sentences(count, seed)
    rows = [{"text": text, "label": ("a", "b", "c")[index % 3]} for index, text in enumerate(texts)]
    torch.manual_seed(seed)
    work = topwork.build("text-classification", BERT, rows=rows)
    labels = [prediction[0]["label"] for prediction in work.predict([{"text": text} for text in texts])]
    halves = ["first" if index < count // 2 else "second" for index in range(count)]
    return work, [
        {"text": text, "label": label, "half": half} for text, label, half in zip(texts, labels, halves, strict=True)
    ]


def silence(work: Any, layer: int, head: int) -> None:
    """Zero the columns of the output projection that read one attention head (of width 8)."""
    projection = work.model.bert.encoder.layer[layer].attention.output.dense
    with torch.no_grad():
        projection.weight[:, 8 * head : 8 * head + 8] = 0
