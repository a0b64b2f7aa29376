"""DETR's transformer as a task head on the feature map of any backbone: timm's, transformers', a plain ViT.

The layers and the loss are those of transformers' DETR, so that the head computes what `DetrForObjectDetection` does
over the same map; only the backbone is free. Formulas: Carion et al. 2020, arXiv 2005.12872 (set loss: equations 1-2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss
from transformers.models.detr.modeling_detr import (
    DetrDecoder,
    DetrEncoder,
    DetrMLPPredictionHead,
    DetrObjectDetectionOutput,
    DetrSinePositionEmbedding,
)

if TYPE_CHECKING:
    from topwork_tasks.object_detection.options import DetrHeadOptions


def detr_config(options: DetrHeadOptions, labels: int) -> DetrConfig:
    """Return the config of DETR's layers and loss; the backbone that it names is never made."""
    config = DetrConfig(
        backbone_config={"model_type": "resnet"},
        d_model=options.width,
        num_queries=options.queries,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers,
        encoder_attention_heads=options.attention_heads,
        decoder_attention_heads=options.attention_heads,
        encoder_ffn_dim=options.feed_forward,
        decoder_ffn_dim=options.feed_forward,
        dropout=options.dropout,
        auxiliary_loss=options.auxiliary_loss,
    )
    config.num_labels = labels
    return config


class DetrHead(nn.Module):
    """Boxes and labels from the coarsest feature map of a backbone.

    Args:
        backbone: from `Base.backbone(maps=(-1,))`.
        options: size of the head.
        labels: number of labels; the logits have one more, for "no object".

    Forward: pixel_values [items, channels, height, width], pixel_mask [items, height, width] (1: no padding), and
    labels as transformers' detectors want them -> `DetrObjectDetectionOutput` with logits [items, queries, labels + 1],
    pred_boxes [items, queries, 4] (centre and size in shares of what is not padding), and the set loss.
    """

    accepts_loss_kwargs = False

    def __init__(self, backbone: Any, options: DetrHeadOptions, labels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        self.main_input_name: str = backbone.main_input
        self.detr_config = config = detr_config(options, labels)
        self.position_embedding = DetrSinePositionEmbedding(config.d_model // 2, normalize=True)
        self.query_position_embeddings = nn.Embedding(config.num_queries, config.d_model)
        self.input_projection = nn.Conv2d(backbone.map_widths[-1], config.d_model, kernel_size=1)
        self.encoder = DetrEncoder(config)
        self.decoder = DetrDecoder(config)
        self.class_labels_classifier = nn.Linear(config.d_model, labels + 1)
        self.bbox_predictor = DetrMLPPredictionHead(config.d_model, config.d_model, 4, num_layers=3)
        for part in (self.encoder, self.decoder):  # section A.4 of the paper: Xavier, which learns sooner than 0.02
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
    ) -> DetrObjectDetectionOutput:
        """Return `logits` [items, queries, labels + 1], `pred_boxes` [items, queries, 4], and the loss with labels."""
        decoded = self._decoded(pixel_values, pixel_mask)
        hidden = decoded.last_hidden_state
        logits = self.class_labels_classifier(hidden)
        boxes = self.bbox_predictor(hidden).sigmoid()
        loss, parts, auxiliary = None, None, None
        if labels is not None:
            between: tuple[Any, Any] = (None, None)
            if self.detr_config.auxiliary_loss:
                states = decoded.intermediate_hidden_states
                between = (self.class_labels_classifier(states), self.bbox_predictor(states).sigmoid())
            loss, parts, auxiliary = ForObjectDetectionLoss(
                logits, labels, logits.device, boxes, self.detr_config, *between
            )
        return DetrObjectDetectionOutput(
            loss=loss,
            loss_dict=parts,
            logits=logits,
            pred_boxes=boxes,
            auxiliary_outputs=auxiliary,
            last_hidden_state=hidden,
        )

    def _decoded(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> Any:
        """Return the decoder's output for every query."""
        features = self.backbone(pixel_values=pixel_values).maps[-1]
        height, width = features.shape[-2:]
        if pixel_mask is None:
            pixel_mask = pixel_values.new_ones((len(pixel_values), *pixel_values.shape[-2:]))
        mask = nn.functional.interpolate(pixel_mask[None].float(), size=(height, width))[0].bool()
        tokens = self.input_projection(features).flatten(2).transpose(1, 2)
        positions = self.position_embedding(shape=features.shape, device=tokens.device, dtype=tokens.dtype, mask=mask)
        positions = positions.flatten(2).transpose(1, 2)
        encoded = self.encoder(
            inputs_embeds=tokens, attention_mask=mask.flatten(1), spatial_position_embeddings=positions
        )
        queries = self.query_position_embeddings.weight.unsqueeze(0).expand(len(tokens), -1, -1)
        return self.decoder(
            inputs_embeds=torch.zeros_like(queries),
            spatial_position_embeddings=positions,
            object_queries_position_embeddings=queries,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask.flatten(1),
        )
