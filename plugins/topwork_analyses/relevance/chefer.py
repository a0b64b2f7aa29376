"""Relevance by attention and its gradient (Chefer, Gur and Wolf 2021, "Generic attention-model explainability").

Entry points: `relevance_maps`, `averaged`. Rules: equations 5 to 11 of arXiv 2103.15679, in the order of the authors'
code (DETR/modules/ExplanationGenerator.py): self-attention of an encoder and of a decoder, cross-attention between
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch

#: which attention a layer computes
Attention = Literal["encoder", "decoder", "cross"]


def averaged(weights: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Return the mean over attention heads of the positive part of gradient times weight (equation 5).

    Args:
        weights: [..., heads, queries, keys].
        gradients: the same, of the number that is explained.
    """
    return (gradients * weights).clamp(min=0).mean(-3)


def normalised(relevance: torch.Tensor) -> torch.Tensor:
    """Return the relevance of a self-attention without the identity, rows that sum to 1, and the identity (8, 9).

    A row without any relevance stays 0.
    """
    identity = torch.eye(relevance.shape[-1], dtype=relevance.dtype)
    rest = relevance - identity
    total = rest.sum(-1, keepdim=True)
    return (
        torch.where(total > 0, rest / total.clamp(min=torch.finfo(rest.dtype).tiny), torch.zeros_like(rest)) + identity
    )


@dataclass
class Maps:
    """Relevance maps of a model.

    Args:
        encoder: [positions, positions] of the encoder (or of the only stack): how much each position owes to each.
        decoder: the same of a decoder beside it; None where there is none.
        cross: [positions of the decoder, positions of the encoder].
    """

    encoder: torch.Tensor | None = None
    decoder: torch.Tensor | None = None
    cross: torch.Tensor | None = field(default=None)

    @property
    def to_input(self) -> torch.Tensor:
        """Relevance of input positions: across, where there is a decoder that looks at an encoder."""
        result = self.cross if self.cross is not None else self.encoder if self.encoder is not None else self.decoder
        assert result is not None
        return result


def relevance_maps(layers: Iterable[tuple[Attention, torch.Tensor]]) -> Maps:
    """Return the relevance maps of attention layers in the order in which they run.

    Args:
        layers: (which attention it is, its `averaged` map [queries, keys]).
    """
    maps = Maps()
    for kind, each in layers:
        if kind == "encoder":
            before = torch.eye(each.shape[-1], dtype=each.dtype) if maps.encoder is None else maps.encoder
            maps.encoder = before + each @ before
        elif kind == "decoder":
            before = torch.eye(each.shape[-1], dtype=each.dtype) if maps.decoder is None else maps.decoder
            maps.decoder = before + each @ before
            if maps.cross is not None:
                maps.cross = maps.cross + each @ maps.cross
        else:
            maps = _crossed(maps, each)
    return maps


def _crossed(maps: Maps, each: torch.Tensor) -> Maps:
    """Equation 10: what a decoder's positions owe to those of the encoder."""
    queries, keys = each.shape
    own_queries = torch.eye(queries, dtype=each.dtype) if maps.decoder is None else maps.decoder
    own_keys = torch.eye(keys, dtype=each.dtype) if maps.encoder is None else maps.encoder
    added = normalised(own_queries).transpose(0, 1) @ each @ normalised(own_keys)
    cross = added if maps.cross is None else maps.cross + added
    return Maps(maps.encoder, own_queries, cross)
