"""The networks of `engine_plugin.py`: outside of it, because they import torch."""

from __future__ import annotations

import torch
from torch import nn

from topwork.task_heads import HeadOutput


class PointNetwork(nn.Module):
    """Takes **kwargs, as models do whose loss Trainer believes to be normalised over accumulated batches."""

    def __init__(self, config, labels, options):
        super().__init__()
        self.config = config
        norm = [nn.BatchNorm1d(8, affine=options.scaled)] if options.norm else []
        self.backbone = nn.Sequential(nn.Linear(4, 8), *norm, nn.Tanh(), nn.Dropout(options.dropout))
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, labels)

    def forward(self, x, **kwargs):
        return HeadOutput(self.head(torch.tanh(self.middle(self.backbone(x)))))


class CoupleNetwork(nn.Module):
    def __init__(self, left, right, labels):
        super().__init__()
        self.left, self.right = left, right
        self.head = nn.Linear(left.width + right.width, labels)

    def forward(self, x, **kwargs):
        ids = (x.abs() * 10).long() + 2
        mask = torch.ones_like(ids)
        found = [side(input_ids=ids, attention_mask=mask).tokens.mean(1) for side in (self.left, self.right)]
        return HeadOutput(self.head(torch.cat(found, 1)))
