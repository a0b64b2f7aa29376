"""The network: one fused projection whose name nobody knows, scores scaled by their own rule."""

import torch
from torch import nn
from transformers import PreTrainedConfig

from topwork import Features
from topwork.task_heads import HeadOutput


class OddConfig(PreTrainedConfig):
    model_type = "odd"

    def __init__(self, width=32, vocab_size=100, **rest):
        self.width, self.vocab_size = width, vocab_size
        super().__init__(**rest)


class OddAttention(nn.Module):
    def __init__(self, width, number):
        super().__init__()
        self.number, self.each = number, width // number
        self.triple, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, states, mask):
        shape = (*states.shape[:2], 3, self.number, self.each)
        query, key, value = self.triple(states).view(shape).permute(2, 0, 3, 1, 4)
        context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
        return self.out(context.transpose(1, 2).flatten(2))


class OddBackbone(nn.Module):
    main_input = "input_ids"

    def __init__(self, config):
        super().__init__()
        self.config, self.width = config, config.width
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(OddAttention(config.width, 4) for _ in range(2))

    def forward(self, input_ids, attention_mask=None, **_):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.words(input_ids)
        for layer in self.layers:
            states = states + layer(states, mask[:, None, None].bool())
        return Features(tokens=states, mask=mask)


class OddClassifier(nn.Module):
    main_input_name = "input_ids"

    def __init__(self, backbone, labels):
        super().__init__()
        self.backbone, self.config = backbone, backbone.config
        self.score = nn.Linear(backbone.width, labels)

    def forward(self, input_ids, attention_mask=None, **_):
        features = self.backbone(input_ids, attention_mask)
        weight = features.mask.unsqueeze(-1)
        return HeadOutput(self.score((features.tokens * weight).sum(1) / weight.sum(1)))
