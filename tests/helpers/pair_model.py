"""A BERT of 3 layers and 24 attention heads that has learned whether two tokens both stand in a sequence.

Entry point: `trained`. Negatives hold exactly one of the two tokens.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from topwork import Batch

FIRST, SECOND, LENGTH, WORDS = 3, 4, 12, 30
STEPS = 300


def rows(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sequences, and whether both tokens stand in them; as many of either kind."""
    ids = torch.randint(5, WORDS, (count, LENGTH), generator=generator)
    ids[:, 0] = 1  # where the classifier looks
    labels = torch.arange(count) % 2
    places = 1 + torch.rand(count, LENGTH - 1, generator=generator).argsort(1)[:, :2]
    which = torch.randint(0, 2, (count,), generator=generator)
    numbers = torch.arange(count)
    ids[numbers, places[:, 0]] = torch.where((labels == 1) | (which == 0), FIRST, SECOND)
    ids[numbers[labels == 1], places[labels == 1, 1]] = SECOND
    return ids, labels


def trained(seed: int) -> tuple[Any, torch.Generator]:
    """Return a trained model, a copy of its own for each caller, and a generator of further rows."""
    model, state = _trained(seed)
    generator = torch.Generator()
    generator.set_state(state)
    return copy.deepcopy(model), generator


@functools.cache
def _trained(seed: int) -> tuple[Any, torch.Tensor]:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8}
    dropout: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(
        **sizes,
        **dropout,
        intermediate_size=128,
        initializer_range=0.1,
        vocab_size=WORDS,
        max_position_embeddings=LENGTH,
    )
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for _ in range(STEPS):
        ids, labels = rows(48, generator)
        loss = torch.nn.functional.cross_entropy(model(ids).logits, labels, label_smoothing=0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval(), generator.get_state()


def losses(model: Any, batch: Batch) -> torch.Tensor:
    """Return the losses of the rows of a batch with "ids" and labels "y"."""
    return torch.nn.functional.cross_entropy(model(batch.inputs["ids"]).logits, batch.inputs["y"], reduction="none")
