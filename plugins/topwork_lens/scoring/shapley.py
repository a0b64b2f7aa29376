"""Shapley values of attention heads: what each contributes to a smaller loss, averaged over the company it is in.

The value of a set of attention heads is minus the loss with all others masked; an attention head's Shapley value is
the mean, over orders in which the attention heads go one by one, of the rise of the loss when it goes (Shapley 1953;
Held and Yang 2022 for attention heads). The values of one order, and so their means, always add up to the loss with
none minus the loss with all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import nn

from topwork import AttentionLayer, Batch
from topwork_lens.gates import factors_of, gated

RowLosses = Callable[[nn.Module, Batch], torch.Tensor]
Player = tuple[int, int]  # position of the layer, original number of the attention head

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
        self.players = [(place, number) for place, layer in enumerate(self.layers) for number in layer.kept or ()]
        generator = random.Random(seed)
        self.orders = [generator.sample(self.players, len(self.players)) for _ in range(orders)]

    @property
    def exact(self) -> bool:
        """Whether all sets are run: 2 ** heads of them."""
        return len(self.players) <= EXACT

    def batch(self, batch: Batch) -> dict[str, torch.Tensor]:
        """[heads] by layer: sums over the rows of the batch."""
        with torch.no_grad():
            values = self._exact(batch) if self.exact else self._sampled(batch)
        return {
            layer.path: torch.tensor([values[place, number] for number in layer.kept or ()], dtype=torch.float64)
            for place, layer in enumerate(self.layers)
        }

    def loss(self, batch: Batch, gone: Sequence[Player]) -> float:
        """The sum of the row losses with some attention heads masked."""
        masked: dict[int, list[int]] = {}
        for place, number in gone:
            masked.setdefault(place, []).append(number)
        gates = {
            self.layers[place].path: (self.layers[place], factors_of(self.layers[place], numbers))
            for place, numbers in masked.items()
        }
        with gated(self.model, gates):
            return float(self.row_losses(self.model, batch).double().sum())

    def _sampled(self, batch: Batch) -> dict[Player, float]:
        found = dict.fromkeys(self.players, 0.0)
        whole, nothing = self.loss(batch, []), self.loss(batch, self.players)
        for order in self.orders:
            before = whole
            for place, player in enumerate(order):
                last = place + 1 == len(order)
                after = nothing if last else self.loss(batch, order[: place + 1])
                found[player] += (after - before) / len(self.orders)
                before = after
        return found

    def _exact(self, batch: Batch) -> dict[Player, float]:
        count = len(self.players)
        losses = {
            frozenset(gone): self.loss(batch, gone)
            for size in range(count + 1)
            for gone in combinations(self.players, size)
        }
        found = {}
        for player in self.players:
            total = 0.0
            for gone, loss in losses.items():
                if player not in gone:
                    weight = math.factorial(len(gone)) * math.factorial(count - len(gone) - 1) / math.factorial(count)
                    total += weight * (losses[gone | {player}] - loss)
            found[player] = total
        return found
