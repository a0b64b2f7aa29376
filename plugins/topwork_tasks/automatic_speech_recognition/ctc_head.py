"""Generic task head of speech recognition: a CTC layer on the frames of any audio backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class CtcOutput:
    """Logits [items, frames, vocabulary] and the real frames of each item, [items]."""

    logits: torch.Tensor
    lengths: torch.Tensor
    loss: torch.Tensor | None = None


class CtcHead(nn.Module):
    """Dropout and one linear layer on every frame.

    Args:
        backbone: answers `Features`.
        vocabulary: entries, the blank among them.
        fixed: the backbone hears clips of one size only and knows no mask (Whisper, AST): then `attention_mask` counts
            real frames of the spectrogram and is used here alone.
        upsample: frames put out for each frame of the backbone, where those are too few for the letters.
    """

    accepts_loss_kwargs = False

    def __init__(
        self, backbone: Any, vocabulary: int, *, fixed: bool = False, dropout: float = 0.1, upsample: int = 1
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config: Any = getattr(backbone, "config", None)
        self.main_input_name: str = backbone.main_input
        self.fixed, self.upsample, self.vocabulary = fixed, upsample, vocabulary
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.width, vocabulary * upsample)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, **inputs: Any) -> CtcOutput:
        """Return the logits of clips, [items, frames * upsample, vocabulary], and their real frames, [items]."""
        mask = inputs.pop("attention_mask", None) if self.fixed else None
        features = self.backbone(**inputs)
        frames = self._in_time(features.tokens)
        items, count = frames.shape[:2]
        if mask is not None:
            # the spectrogram's frames that are real, in proportion
            lengths = -(-mask.sum(1) * count // mask.shape[1])
        elif features.mask is not None:
            lengths = features.mask.sum(1)
        else:
            lengths = torch.full((items,), count, device=frames.device)
        logits = self.head(self.dropout(frames.to(self.head.weight.dtype)))
        logits = logits.reshape(items, count * self.upsample, self.vocabulary)
        return CtcOutput(logits, lengths.long().clamp(1, count) * self.upsample)

    def _in_time(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [items, frames, width].

        AST's tokens are two special ones and patches, all times of the lowest frequency first: a frame is their mean
        over frequencies.
        """
        if getattr(self.config, "model_type", "") != "audio-spectrogram-transformer":
            return tokens
        bands = (self.config.num_mel_bins - self.config.patch_size) // self.config.frequency_stride + 1
        patches = tokens[:, 2:]
        return patches.reshape(len(patches), bands, -1, patches.shape[-1]).mean(1)
