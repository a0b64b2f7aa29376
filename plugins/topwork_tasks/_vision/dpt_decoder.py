"""The decoder of DPT (Ranftl et al. 2021, arXiv 2103.13413) on the feature maps of any backbone, of transformers'
layers.

Maps of one size, those of a plain vision transformer, are first reassembled to four, two, one and half times that size
(section 3 of the paper; class tokens are ignored); the maps of a pyramid already have their sizes and are taken as they
are, as transformers does it for Swin V2. Then they are fused from the coarsest to the finest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import DPTConfig
from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage, DPTReassembleLayer

_FACTORS = (4, 2, 1, 0.5)
_CHANNELS = (8, 4, 2, 1)  # the width of the backbone divided by these, as in DPT-Base and Depth Anything


class DptDecoder(nn.Module):
    """Maps [items, widths[i], height / strides[i], width / strides[i]] -> [items, 32, height', width'], four times as
    fine as the finest map after reassembling.

    Args:
        widths, strides: of the maps, finest first; one to four.
    """

    width = 32

    def __init__(self, widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        plain = len(set(strides)) == 1
        channels = [max(8, widths[-1] // part) for part in _CHANNELS][: len(widths)] if plain else list(widths)
        fused = min(256, max(32, widths[-1] // 3 // 32 * 32))
        config: Any = DPTConfig(is_hybrid=False, neck_hidden_sizes=channels, fusion_hidden_size=fused)
        self.reassemble = nn.ModuleList()
        for width, channel, factor in zip(widths, channels, _FACTORS) if plain else ():
            config.hidden_size = width
            self.reassemble.append(DPTReassembleLayer(config, channels=channel, factor=factor))  # type: ignore[arg-type]
        self.convs = nn.ModuleList(nn.Conv2d(channel, fused, 3, padding=1, bias=False) for channel in channels)
        self.fusion = DPTFeatureFusionStage(config)
        # the coarsest map meets no other: transformers' layer has weights for one, that nothing would ever reach
        self.fusion.layers[0].residual_layer1 = nn.Identity()
        self.first = nn.Conv2d(fused, fused // 2, 3, padding=1)
        self.second = nn.Conv2d(fused // 2, self.width, 3, padding=1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.reassemble:
            maps = [layer(entry) for layer, entry in zip(self.reassemble, maps)]
        fused = self.fusion([layer(entry) for layer, entry in zip(self.convs, maps)])[-1]
        large = functional.interpolate(self.first(fused), scale_factor=2, mode="bilinear", align_corners=True)
        return functional.relu(self.second(large))
