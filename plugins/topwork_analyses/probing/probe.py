"""Edge probes: a mix of frozen layers, attentive pooling of spans, and a classifier with a decision for each label.

`EdgeProbe` holds several replicas with parameters of their own (seeds, control tasks) that are trained side by side;
a replica gives the same numbers alone. How probes are trained stands in `training`.

Architecture: Tenney et al. 2019, "What do you learn from context?" (section 3.1) and "BERT rediscovers the classical
NLP pipeline" (section 2): scalar mix (Peters et al. 2018), projection to 256, self-attentive span pooling (Lee et al.
2017), a perceptron with one hidden layer, a sigmoid for each label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


class EdgeProbe(nn.Module):
    """Probes on the layers 0 to l of a frozen model, one for each seed.

    Args:
        layers: how many layers are mixed, the embeddings among them.
        width: of the hidden states.
        labels: how many labels there are.
        spans: 1, or 2 for labels of pairs of spans.
        seeds: one for each replica.
        projection: width to which the mixed states are projected.
        prior: [replicas, labels], share of the rows that have each label: where the classifiers begin.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        labels: int,
        spans: int,
        seeds: Sequence[int],
        projection: int = 256,
        prior: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def drawn(rows: int, columns: int) -> nn.Parameter:
            bound = 1 / math.sqrt(rows)
            values = [(torch.rand(rows, columns, generator=each) * 2 - 1) * bound for each in generators]
            return nn.Parameter(torch.stack(values))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(len(seeds), *shape))

        self.spans = spans
        self.mix, self.scale = zeros(layers), nn.Parameter(torch.ones(len(seeds)))
        self.project = nn.ParameterList([drawn(width, projection) for _ in range(spans)])
        self.project_bias = nn.ParameterList([zeros(projection) for _ in range(spans)])
        self.attend = nn.ParameterList([drawn(projection, 1) for _ in range(spans)])
        self.hidden, self.hidden_bias = drawn(spans * projection, projection), zeros(projection)
        self.norm, self.norm_bias = nn.Parameter(torch.ones(len(seeds), projection)), zeros(projection)
        self.classify, self.classify_bias = drawn(projection, labels), zeros(labels)
        if prior is not None:
            with torch.no_grad():
                self.classify_bias.copy_(torch.logit(prior.clamp(1e-3, 1 - 1e-3)))

    def weights(self) -> torch.Tensor:
        """Return the mixing weights of the layers [replicas, layers]; they sum to 1."""
        return self.mix.detach().softmax(-1)

    def forward(self, states: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits [replicas, rows, labels].

        Args:
            states: for each span [replicas or 1, rows, positions, layers, width], what stands at the span's positions.
            masks: for each span [replicas or 1, rows, positions], True where a position belongs to it.
        """
        shares = self.mix.softmax(-1) * self.scale[:, None]
        pooled = []
        for index, (state, mask) in enumerate(zip(states, masks, strict=True)):
            mixed = torch.einsum("rbpld,rl->rbpd", state.expand(len(shares), *state.shape[1:]), shares)
            flat = torch.baddbmm(self.project_bias[index][:, None], mixed.flatten(1, 2), self.project[index])
            projected = flat.unflatten(1, mixed.shape[1:3])
            scores = torch.einsum("rbpd,rd->rbp", projected, self.attend[index].squeeze(-1))
            attention = scores.masked_fill(~mask, float("-inf")).softmax(-1)
            pooled.append(torch.einsum("rbp,rbpd->rbd", attention, projected))
        hidden = torch.baddbmm(self.hidden_bias[:, None], torch.cat(pooled, -1), self.hidden).tanh()
        normed = nn.functional.layer_norm(hidden, hidden.shape[-1:]) * self.norm[:, None] + self.norm_bias[:, None]
        return torch.baddbmm(self.classify_bias[:, None], normed, self.classify)
