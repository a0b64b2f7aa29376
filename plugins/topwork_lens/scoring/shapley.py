"""Shapley values of attention heads: the mean contribution of each to a smaller loss, over all sets of the others.

Entry point: `Shapley`. The value of a set of attention heads is minus the loss with all others masked; the Shapley
value of an attention head is the mean, over orders in which the attention heads are removed one by one, of the rise of
the loss at its removal (Shapley 1953; Held and Yang 2022 for attention heads). The values of one order, and so their
means, add up to the loss with none minus the loss with all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import nn

from topwork import AttentionLayer, Batch
from topwork_lens.gates import factors_of, gated
from topwork_lens.scoring.row_independence import RowLosses

Player = tuple[int, int]  # index of the layer, original number of the attention head

#: with so many attention heads or fewer, all sets are run and the values are exact
EXACT = 8


class Shapley:
    """Shapley values of the attention heads of some layers.

    Args:
        orders: random orders to average over; not used when the values are exact.
        seed: of the orders, which are the same for every batch.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[AttentionLayer], row_losses: RowLosses, orders: int = 8, seed: int = 0
    ) -> None:
        self.model, self.layers, self.row_losses = model, list(layers), row_losses
        self.players = [(index, head) for index, layer in enumerate(self.layers) for head in layer.kept]
        generator = random.Random(seed)
        self.orders = [generator.sample(self.players, len(self.players)) for _ in range(orders)]

    @property
    def exact(self) -> bool:
        """Whether all sets are run: 2 ** heads of them."""
        return len(self.players) <= EXACT

    def batch(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the values of a batch, summed over its rows: [heads] by layer path."""
        with torch.no_grad():
            values = self._exact(batch) if self.exact else self._sampled(batch)
        return {
            layer.path: torch.tensor([values[index, head] for head in layer.kept], dtype=torch.float64)
            for index, layer in enumerate(self.layers)
        }

    def loss(self, batch: Batch, removed: Sequence[Player]) -> float:
        """Return the sum of the row losses with some attention heads masked."""
        masked: dict[int, list[int]] = {}
        for index, head in removed:
            masked.setdefault(index, []).append(head)
        gates = {
            self.layers[index].path: (self.layers[index], factors_of(self.layers[index], heads))
            for index, heads in masked.items()
        }
        with gated(self.model, gates):
            return float(self.row_losses(self.model, batch).double().sum())

    def _sampled(self, batch: Batch) -> dict[Player, float]:
        values = dict.fromkeys(self.players, 0.0)
        with_all, with_none = self.loss(batch, []), self.loss(batch, self.players)
        for order in self.orders:
            before = with_all
            for index, player in enumerate(order):
                is_last = index + 1 == len(order)
                after = with_none if is_last else self.loss(batch, order[: index + 1])
                values[player] += (after - before) / len(self.orders)
                before = after
        return values

    def _exact(self, batch: Batch) -> dict[Player, float]:
        count = len(self.players)
        losses = {
            frozenset(removed): self.loss(batch, removed)
            for size in range(count + 1)
            for removed in combinations(self.players, size)
        }
        values = {}
        for player in self.players:
            total = 0.0
            for removed, loss in losses.items():
                if player not in removed:
                    size = len(removed)
                    weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                    total += weight * (losses[removed | {player}] - loss)
            values[player] = total
        return values
