"""Dense task heads: one or several outputs for every pixel, on the feature maps of any backbone.

Entry points: `backbone_with_maps`, then `DenseHead` or `DepthHead`; `row_losses` for label maps. The heads read
`Features.maps` only, so they work on convolutional networks, pyramids of transformers and plain vision transformers.
The pyramid is the top-down one of Lin et al. 2017 (arXiv 1612.03144) with all levels joined as in
UPerNet (Xiao et al. 2018, arXiv 1807.10221). Group norm instead of batch norm: a row's output does not depend on
the other rows of its batch, and batches of one row can be learned from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from transformers import DPTConfig
from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage, DPTReassembleLayer

from topwork import Base, CheckpointError

Decoder = Literal["pyramid", "linear", "dpt"]
DECODER_HELP = (
    "pyramid: all levels of the backbone joined; linear: one layer on its last map (a probe); dpt: the decoder of DPT"
)
#: pixels that a position of the pyramid decoder's output covers
_FINEST = 4
_FACTORS = (4, 2, 1, 0.5)
#: the width of the backbone divided by these, as in DPT-Base and Depth Anything
_CHANNELS = (8, 4, 2, 1)


@dataclass
class DenseOutput:
    """`logits` is [items, outputs, height / 4, width / 4] or coarser; `loss` is None: it belongs to the task."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None


@dataclass
class DepthOutput:
    """`predicted_depth` is [items, height, width] in the unit of the rows; `loss` is None."""

    predicted_depth: torch.Tensor
    loss: torch.Tensor | None = None


def backbone_with_maps(base: Base, weights: bool, **changes: Any) -> Any:
    """Return the base's backbone with as many maps as it has, four at most.

    Args:
        base: the base.
        weights: False makes a module with random weights.
        **changes: entries of the config to change.

    Raises:
        CheckpointError: it is no network for images, or gives no feature maps.
    """
    if not any(hasattr(base.config, name) for name in ("num_channels", "image_size", "backbone_config")):
        raise CheckpointError(f"`{base.config.model_type}` is no network for images", hint="choose another base")
    for maps in ((0, 1, 2, 3), (0, 1, 2), (0, 1)):
        try:
            return base.backbone(weights=weights, maps=maps, **changes)
        except CheckpointError as error:
            if error.code != "too_few_maps":
                raise
    return base.backbone(weights=weights, maps=(-1,), **changes)


class DenseHead(nn.Module):
    """Backbone with maps, a decoder and one layer of outputs.

    Args:
        backbone: from `Base.backbone(maps=...)`.
        outputs: outputs of a pixel.
        decoder: see `DECODER_HELP`.
        dropout: before the last layer; DPT has none there.
    """

    accepts_loss_kwargs = False

    def __init__(self, backbone: Any, outputs: int, decoder: Decoder = "pyramid", dropout: float = 0.1) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        self.main_input_name: str = backbone.main_input
        widths = list(backbone.map_widths)
        if decoder == "linear":
            self.decoder: nn.Module = _LastMap()
            width = widths[-1]
        elif decoder == "dpt":
            self.decoder = DptDecoder(widths, list(backbone.map_strides))
            width, dropout = self.decoder.width, 0.0
        else:
            self.decoder = _Pyramid(widths, list(backbone.map_strides))
            width = self.decoder.width
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def outputs(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return [items, outputs, height, width] at the decoder's resolution."""
        maps = [level.to(self.head.weight.dtype) for level in self.backbone(pixel_values=pixel_values).maps]
        return self.head(self.dropout(self.decoder(maps)))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return DenseOutput(self.outputs(pixel_values))


class DepthHead(DenseHead):
    """Dense head for depth: softplus of the output, or with `max_depth` its sigmoid times that; never negative.

    Args:
        typical: depth of the first predictions; a head that begins at zero hardly moves.
    """

    def __init__(
        self,
        backbone: Any,
        decoder: Decoder = "pyramid",
        max_depth: float | None = None,
        typical: float = 1.0,
    ) -> None:
        super().__init__(backbone, 1, decoder)
        self.max_depth = max_depth
        if max_depth is None:
            start = typical + math.log(-math.expm1(-typical))  # the inverse of softplus
        else:
            share = min(max(typical / max_depth, 0.02), 0.98)
            start = math.log(share / (1 - share))
        nn.init.constant_(self.head.bias, start)  # type: ignore[arg-type]

    def forward(self, pixel_values: torch.Tensor) -> DepthOutput:
        output = self.outputs(pixel_values)[:, 0]
        if self.max_depth is None:
            return DepthOutput(functional.softplus(output))
        return DepthOutput(torch.sigmoid(output) * self.max_depth)


class _LastMap(nn.Module):
    """Decoder of a linear probe: the last map, unchanged."""

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return maps[-1]


class _Pyramid(nn.Module):
    """Maps -> one map at a quarter of the image's size (or at the finest map's, when that is finer)."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.width = min(256, max(64, widths[-1] // 4 // 32 * 32))
        self.lateral = nn.ModuleList(_layer(width, self.width, 1) for width in widths)
        self.context = nn.Sequential(nn.Conv2d(widths[-1], self.width, 1), nn.GELU())
        self.smooth = nn.ModuleList(_layer(self.width, self.width, 3) for _ in widths)
        self.join = _layer(self.width * len(widths), self.width, 3)
        steps = max(0, round(math.log2(max(1, strides[0]) / _FINEST)))
        self.refine = nn.ModuleList(_layer(self.width, self.width, 3) for _ in range(steps))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        above = self.lateral[-1](maps[-1]) + self.context(maps[-1].mean((2, 3), keepdim=True))
        levels = [above]
        for layer, finer in zip(reversed(self.lateral[:-1]), reversed(maps[:-1])):
            above = layer(finer) + _resized(above, finer.shape[-2:])
            levels.insert(0, above)
        size = levels[0].shape[-2:]
        joined = self.join(torch.cat([_resized(smooth(x), size) for smooth, x in zip(self.smooth, levels)], dim=1))
        for layer in self.refine:
            joined = layer(_resized(joined, [2 * side for side in joined.shape[-2:]]))
        return joined


class DptDecoder(nn.Module):
    """Decoder of DPT (Ranftl et al. 2021, arXiv 2103.13413) on the maps of any backbone, of transformers' layers.

    Maps of one size, those of a plain vision transformer, are first reassembled to four, two, one and half times that
    size (section 3; class tokens are ignored); the maps of a pyramid keep their sizes, as transformers does it for
    Swin V2. Then they are fused from the coarsest to the finest: maps [items, widths[i], height / strides[i], width /
    strides[i]] -> [items, 32, height', width'], four times as fine as the finest map after reassembling.

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
            maps = [layer(level) for layer, level in zip(self.reassemble, maps)]
        fused = self.fusion([layer(level) for layer, level in zip(self.convs, maps)])[-1]
        large = functional.interpolate(self.first(fused), scale_factor=2, mode="bilinear", align_corners=True)
        return functional.relu(self.second(large))


def _layer(before: int, after: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.GroupNorm(8, after), nn.GELU()
    )


def _resized(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def row_losses(logits: torch.Tensor, labels: torch.Tensor, ignored: int, dice: float) -> torch.Tensor:
    """Return the loss of each item, [items]: cross-entropy plus `dice` times the soft Dice loss.

    Cross-entropy is the mean over the pixels that count. Dice (Milletari et al. 2016, arXiv 1606.04797, with 1 added
    above and below) is the mean over the labels that the item's truth holds. An item all of whose pixels are ignored
    has the loss 0.

    Args:
        logits: [items, labels, h, w]; enlarged to the truth's size.
        labels: long [items, height, width].
        ignored: the label that does not count.
        dice: weight of the Dice loss; 0 for none.
    """
    logits = functional.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    valid = labels != ignored
    count = valid.sum((1, 2)).clamp(min=1)
    entropy = functional.cross_entropy(logits, labels, ignore_index=ignored, reduction="none").sum((1, 2)) / count
    if not dice:
        return entropy
    truth = functional.one_hot(labels.masked_fill(~valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    shares = logits.softmax(1) * valid[:, None]
    common, total = (shares * truth).sum((2, 3)), shares.sum((2, 3)) + truth.sum((2, 3))
    present = truth.amax((2, 3)) > 0
    by_label = 1 - (2 * common + 1) / (total + 1)
    return entropy + dice * (by_label * present).sum(1) / present.sum(1).clamp(min=1)
