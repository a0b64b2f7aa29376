"""Generic task heads: what stands on a backbone whose architecture has no class of its own for a task.

They know `Features` only, so they work on text, images and audio alike. Each answers an object with `.logits` and
`.loss`, which is None: the loss belongs to the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from topwork.base import Features
from topwork.errors import UsageError

Pooling = Literal["mean", "first", "last", "own"]


@dataclass
class HeadOutput:
    """Output of a task head: `logits` is [items, labels], or [items, positions, labels]; `loss` is None."""

    logits: torch.Tensor
    mask: torch.Tensor | None = None
    loss: torch.Tensor | None = None


def pool(features: Features, how: Pooling) -> torch.Tensor:
    """Return one vector an item, [items, width], from the positions that are real.

    Args:
        features: the output of a backbone.
        how: "mean" over real positions; "first" real position (class tokens); "last" real position (causal models:
            the only one that has seen the whole text), wherever the padding is; "own": its own pooled vector.

    Raises:
        UsageError: the backbone has no such output.
    """
    if how == "own":
        if features.pooled is None:
            raise UsageError("the backbone has no pooled vector of its own", hint="choose pooling mean, first or last")
        return features.pooled
    tokens = features.tokens
    if tokens is None:
        if not features.maps:
            raise UsageError("the backbone gave neither tokens nor maps")
        tokens = features.maps[-1].flatten(2).transpose(1, 2)
    mask = features.mask
    if how == "mean":
        if mask is None:
            return tokens.mean(1)
        weight = mask.to(tokens.dtype).unsqueeze(-1)
        return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
    if mask is None:
        return tokens[:, 0 if how == "first" else -1]
    places = torch.arange(mask.shape[1], device=mask.device)
    real = mask.bool()
    if how == "first":
        index = torch.where(real, places, mask.shape[1] - 1).amin(1)
    else:
        index = torch.where(real, places, 0).amax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), index]


class _TaskHead(nn.Module):
    """A backbone, dropout and one linear layer; what is pooled, if anything, is the subclass's business."""

    accepts_loss_kwargs = False

    def __init__(self, backbone: Any, labels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = getattr(backbone, "config", None)
        self.main_input_name: str = backbone.main_input
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.width, labels)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(vectors.to(self.head.weight.dtype)))


class PooledHead(_TaskHead):
    """Logits [items, labels] from one pooled vector an item."""

    def __init__(self, backbone: Any, labels: int, pooling: Pooling = "mean", dropout: float = 0.1) -> None:
        super().__init__(backbone, labels, dropout)
        self.pooling: Pooling = pooling

    def forward(self, **inputs: Any) -> HeadOutput:
        """Return logits [items, labels]."""
        return HeadOutput(self.logits(pool(self.backbone(**inputs), self.pooling)))


class TokenHead(_TaskHead):
    """Logits [items, positions, labels] from every token, with the mask of real positions."""

    def forward(self, **inputs: Any) -> HeadOutput:
        """Return logits [items, positions, labels] and the mask [items, positions]."""
        features = self.backbone(**inputs)
        return HeadOutput(self.logits(features.tokens), features.mask)


@dataclass
class SpanOutput:
    """Output of `SpanHead`: logits of the first and last token of a span, each [items, positions]."""

    start_logits: torch.Tensor
    end_logits: torch.Tensor
    loss: torch.Tensor | None = None


class SpanHead(_TaskHead):
    """Logits of a span's first and last token."""

    def __init__(self, backbone: Any, dropout: float = 0.0) -> None:
        super().__init__(backbone, 2, dropout)

    def forward(self, **inputs: Any) -> SpanOutput:
        """Return logits of the first and the last token, each [items, positions]."""
        start, end = self.logits(self.backbone(**inputs).tokens).unbind(-1)
        return SpanOutput(start, end)
