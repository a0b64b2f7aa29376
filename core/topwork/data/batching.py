"""How items become batches: by number and by a budget of cost, so that little is spent on padding.

The cost of a batch is its number of items times its largest item, because padding makes every item as large as that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from topwork.errors import TopworkError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Budget:
    """At most `items` items in a batch, and count * largest cost at most `cost` (None: no such bound). An item that
    is dearer than the budget travels alone."""

    items: int
    cost: int | None = None


def plan(costs: Sequence[int], budget: Budget, counts: Sequence[int] | None = None) -> list[list[int]]:
    """Batches of positions, the dearest first, each within the budget.

    Args:
        costs: of each unit (an item, or a row with several items: then its largest).
        counts: items in each unit; 1 by default. A unit is never divided.
    """
    order = sorted(range(len(costs)), key=lambda position: (-costs[position], position))
    batches: list[list[int]] = []
    held = 0
    for position in order:
        count = counts[position] if counts is not None else 1
        if batches and _fits(held + count, costs[batches[-1][0]], budget):
            batches[-1].append(position)
            held += count
        else:
            batches.append([position])
            held = count
    return batches


def _fits(count: int, largest: int, budget: Budget) -> bool:
    return count <= budget.items and (budget.cost is None or count * largest <= budget.cost)


#: batches whose items are sorted together by `group: true`: little padding
GROUPED = 64
#: windows an epoch has at least by default, so that batches are about as random as without grouping
_LEAST_WINDOWS = 32


class TrainBatches:
    """A batch sampler for training: every item once an epoch, items of like cost together, the same number of batches
    on every process.

    The order comes from (seed, epoch) alone, so an interrupted run goes on with the very batches that it would have
    seen. Items that do not divide make batches whose sizes differ by one: none is repeated or left out.

    Args:
        costs: cost of each item.
        budget: `items` is the batch size of one process; with a `cost` the batches vary in number of items.
        window: batches whose items are sorted together: more means less padding and less randomness, 1 is a random
            order. By default at most 64, and so few that an epoch has 32 windows.

    Yields:
        lists of (epoch, position).
    """

    def __init__(
        self,
        costs: Sequence[int] | np.ndarray,
        budget: Budget,
        seed: int,
        index: int = 0,
        count: int = 1,
        window: int | None = None,
    ) -> None:
        import numpy as np

        self.costs = np.asarray(costs, dtype=np.int64)
        self.budget, self.seed, self.index, self.count = budget, seed, index, count
        self.epoch = 0
        self.total = self._total()
        self.window = window or min(GROUPED, max(1, self.total // _LEAST_WINDOWS))

    def _total(self) -> int:
        import numpy as np

        if self.budget.cost is None:
            number = -(-len(self.costs) // self.budget.items)
        else:
            number = len(plan(np.sort(self.costs)[::-1].tolist(), self.budget))
        total = -(-number // self.count) * self.count
        if total > len(self.costs):  # as many items as batches, and one process would go without
            total = len(self.costs) // self.count * self.count
        if total == 0:
            raise TopworkError(
                f"{len(self.costs)} training items are too few for {self.count} processes", hint="start fewer processes"
            )
        return total

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's loader at the beginning of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of one process in an epoch."""
        return self.total // self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        import numpy as np

        random = np.random.default_rng([self.seed, self.epoch])
        batches = self._by_cost(random) if self.budget.cost is not None else self._by_number(random)
        order = random.permutation(len(batches))
        for position in order[self.index :: self.count]:
            yield [(self.epoch, int(item)) for item in batches[position]]

    def _by_number(self, random: np.random.Generator) -> list[np.ndarray]:
        """Windows of batches; in each the items are sorted by cost and cut into batches of (nearly) equal number."""
        import numpy as np

        order = random.permutation(len(self.costs))
        windows = -(-self.total // self.window)
        bounds = [round(self.total * number / windows) for number in range(windows + 1)]
        batches: list[np.ndarray] = []
        for first, last in pairwise(bounds):
            part = order[_share(len(order), first, self.total) : _share(len(order), last, self.total)]
            part = part[np.argsort(self.costs[part], kind="stable")]
            batches.extend(np.array_split(part, last - first))
        return batches

    def _by_cost(self, random: np.random.Generator) -> list[np.ndarray]:
        """All items sorted by cost (equal ones in random order): the sequence of costs, hence the number of batches,
        is the same in every epoch."""
        import numpy as np

        order = random.permutation(len(self.costs))
        order = order[np.argsort(-self.costs[order], kind="stable")]
        batches = [order[batch] for batch in plan(self.costs[order].tolist(), self.budget)]
        while len(batches) < self.total:  # equal counts on every process: divide the largest
            largest = max(range(len(batches)), key=lambda number: len(batches[number]))
            batches.extend(np.array_split(batches.pop(largest), 2))
        while len(batches) > self.total:  # no item left to divide: join the cheapest instead
            cheapest = batches.pop()
            batches[-1] = np.concatenate([batches[-1], cheapest])
        return batches


def _share(length: int, part: int, total: int) -> int:
    return length * part // total
