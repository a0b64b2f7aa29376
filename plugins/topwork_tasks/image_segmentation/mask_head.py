"""Mask2Former's decoders as a task head on the feature maps of any backbone: timm's, transformers', a plain ViT.

The layers and the loss are those of transformers' Mask2Former, so that the head computes what
`Mask2FormerForUniversalSegmentation` does over the same maps; only the backbone is free (Cheng et al. 2022, arXiv
2112.01527). It wants four maps, each half as large as the one before. Maps of one size, those of a plain vision
transformer, are resized to four times to half of it, as DPT reassembles them; a pyramid of fewer maps is lengthened by
strided convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DPTConfig, Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.models.dpt.modeling_dpt import DPTReassembleLayer
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput
from transformers.utils import logging

if TYPE_CHECKING:
    from topwork_tasks.image_segmentation.options import MaskHeadOptions

_LEVELS = 4
_FACTORS = (4, 2, 1, 0.5)


class MaskHead(nn.Module):
    """Task head: masks with labels from the feature maps of a backbone.

    Args:
        backbone: from `Base.backbone(maps=...)`.
        options: size of the head.
        labels: number of labels; class logits have one more, for "no object".

    Forward: pixel_values [items, channels, height, width], and for a loss mask_labels (of each item [n, height, width])
    and class_labels (of each [n]) -> class_queries_logits [items, queries, labels + 1], masks_queries_logits [items,
    queries, h, w] at the finest map's resolution, and the loss, None without labels.
    """

    accepts_loss_kwargs = False

    def __init__(self, backbone: Any, options: MaskHeadOptions, labels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        self.main_input_name: str = backbone.main_input
        self.levels = _Levels(list(backbone.map_widths), list(backbone.map_strides), options.width)
        self.head = _head(self.levels.widths, options, labels)

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        mask_labels: list[torch.Tensor] | None = None,
        class_labels: list[torch.Tensor] | None = None,
    ) -> Mask2FormerForUniversalSegmentationOutput:
        """Return masks with labels and, with targets, the loss.

        `pixel_mask` is not read, as in Mask2Former: no mask covers padding.
        """
        head: Any = self.head
        maps = [level.to(head.dtype) for level in self.backbone(pixel_values=pixel_values).maps]
        pixels = head.model.pixel_level_module.decoder(self.levels(maps), output_hidden_states=False)
        decoded = head.model.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=True,
            output_attentions=False,
        )
        classes = tuple(head.class_predictor(state.transpose(0, 1)) for state in decoded.intermediate_hidden_states)
        masks, loss = decoded.masks_queries_logits, None
        if mask_labels is not None and class_labels is not None:
            parts = head.get_loss_dict(
                masks_queries_logits=masks[-1],
                class_queries_logits=classes[-1],
                mask_labels=mask_labels,
                class_labels=class_labels,
                auxiliary_predictions=head.get_auxiliary_logits(classes, masks),
            )
            loss = head.get_loss(parts)
        return Mask2FormerForUniversalSegmentationOutput(
            loss=loss, class_queries_logits=classes[-1], masks_queries_logits=masks[-1]
        )


def _head(widths: Sequence[int], options: MaskHeadOptions, labels: int) -> Mask2FormerForUniversalSegmentation:
    """Return transformers' model for maps of these widths, without its backbone."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn of the small backbone, which is removed at once
    try:
        made = Mask2FormerForUniversalSegmentation(_config(widths, options, labels))
    finally:
        logging.set_verbosity(level)
    del made.model.pixel_level_module.encoder
    return made


def _config(widths: Sequence[int], options: MaskHeadOptions, labels: int) -> Any:
    stages = [f"stage{stage}" for stage in range(1, _LEVELS + 1)]
    small = {"model_type": "resnet", "embedding_size": widths[0], "hidden_sizes": list(widths), "depths": [1] * _LEVELS}
    config: Any = Mask2FormerConfig(
        backbone_config={**small, "out_features": stages},
        feature_size=options.width,
        mask_feature_size=options.width,
        hidden_dim=options.width,
        encoder_feedforward_dim=options.feed_forward // 2,
        dim_feedforward=options.feed_forward,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers + 1,  # transformers counts the prediction before the first layer
        num_attention_heads=options.attention_heads,
        num_queries=options.queries,
        train_num_points=options.points,
        dropout=options.dropout,
    )
    config.num_labels = labels
    return config


class _Levels(nn.Module):
    """The maps of a backbone -> four maps, each half as large as the one before.

    Attributes:
        widths: channels of the four maps.
    """

    def __init__(self, widths: list[int], strides: list[int], width: int) -> None:
        super().__init__()
        self.plain = len(set(strides)) == 1
        if self.plain:
            self._sources = [min(level, len(widths) - 1) for level in range(_LEVELS)]
            self.widths = [width] * _LEVELS
            self.layers = nn.ModuleList()
            for source, factor in zip(self._sources, _FACTORS):
                config: Any = DPTConfig(is_hybrid=False, hidden_size=widths[source])
                self.layers.append(DPTReassembleLayer(config, channels=width, factor=factor))  # type: ignore[arg-type]
            return
        added = _LEVELS - len(widths)
        self.widths = widths + [width] * added
        befores = [widths[-1], *[width] * added]
        self.layers = nn.ModuleList(nn.Conv2d(befores[step], width, 3, stride=2, padding=1) for step in range(added))

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.plain:
            return [layer(maps[source]) for layer, source in zip(self.layers, self._sources)]
        levels = list(maps)
        for layer in self.layers:
            levels.append(layer(levels[-1]))
        return levels
