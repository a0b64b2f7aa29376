"""P8: what is chosen keeps more than random choices of the same counts do, on models that have learned something."""

from __future__ import annotations

import pytest
import torch
from pair_model import losses, rows, trained

from topwork import Batch, Item
from topwork_compress.compression import Compression
from topwork_compress.plan import Budget, Settings

pytestmark = pytest.mark.learn
SEEDS, DRAWS = 5, 6


def losses_of(seed: int, macs: float) -> tuple[float, list[float]]:
    """The mean loss of held-out rows with the chosen mask, and with random ones."""
    model, generator = trained(seed)
    (ids, labels), (held, truths) = rows(256, generator), rows(600, generator)
    parts = [slice(start, start + 64) for start in range(0, 256, 64)]
    batches = [Batch({"ids": ids[part], "y": labels[part]}, [Item(row, {}) for row in range(64)]) for part in parts]
    measured = Batch({"ids": held, "y": truths}, [Item(row, {}) for row in range(600)])
    compression = Compression(model, batches, losses, None, Settings(seed=seed))
    plan = compression.plan(Budget(macs=macs))

    def loss(masks: dict[str, list[int]]) -> float:
        with compression.masked(masks), torch.no_grad():
            return float(losses(model, measured).mean())

    return loss(plan.removed), [loss(compression.random(plan, DRAWS * seed + draw)) for draw in range(DRAWS)]


def test_p8_the_choice_is_better_than_random_ones_of_the_same_counts() -> None:
    better = []
    for seed in range(SEEDS):
        chosen, random = losses_of(seed, macs=0.6)
        print(seed, chosen, random)
        better.append(chosen < sum(random) / DRAWS)
    assert sum(better) >= 4
