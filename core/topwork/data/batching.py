"""Batching of items by number and by a budget of cost, so that little is spent on padding.

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
    """Bounds of a batch: at most `items` items, and count * largest cost at most `cost`.

    An item that costs more than the budget makes a batch by itself.

    Args:
        items: most items in a batch.
        cost: in the unit of the task's costs (tokens, pixels, samples); None for no such bound.
    """

    items: int
    cost: int | None = None


def plan(costs: Sequence[int], budget: Budget, counts: Sequence[int] | None = None) -> list[list[int]]:
    """Divide units into batches within a budget, those of the largest cost first.

    Args:
        costs: of each unit (an item, or a row with several items: then its largest).
        budget: bounds of each batch.
        counts: items in each unit; 1 by default. A unit is never divided.

    Returns:
        the indices of the units of each batch.

    Example:
        >>> plan([1, 5, 2, 5], Budget(items=8, cost=10))
        [[1, 3], [2, 0]]
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
    """Batch sampler of a training: every item once an epoch or all strata equally often; similar costs together.

    Every process gets the same number of batches. The order follows from (seed, epoch) alone, so an interrupted run
    goes on with the batches that it would have had. Items that do not divide evenly make batches whose sizes differ by
    1: none is repeated or left out.

    Args:
        costs: cost of each item.
        budget: `items` is the batch size of one process; with a `cost` the batches vary in number of items.
        seed: of the order.
        index: of this process.
        count: of the processes.
        window: batches whose items are sorted together: more means less padding and less randomness, 1 is a random
            order. By default at most 64, and so few that an epoch has 32 windows.
        strata: of each item; an epoch then has as many items as there are, equally many of each stratum: those of rare
            ones come several times, of frequent ones others in each epoch. Only without a budget of cost.

    Yields:
        lists of (epoch, index of the item).
    """

    def __init__(
        self,
        costs: Sequence[int] | np.ndarray,
        budget: Budget,
        seed: int,
        index: int = 0,
        count: int = 1,
        window: int | None = None,
        strata: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        import numpy as np

        if strata is not None and budget.cost is not None:
            raise ValueError("items of equally frequent strata do not go with a budget of cost")
        self.strata = None if strata is None else np.asarray(strata, dtype=np.int64)
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
        """Set the epoch; accelerate's loader calls it at the beginning of each."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of one process in an epoch."""
        return self.total // self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        import numpy as np

        random = np.random.default_rng([self.seed, self.epoch])
        batches = self._by_cost(random) if self.budget.cost is not None else self._by_number(random)
        order = random.permutation(len(batches))
        for position in order[self.index :: self.count]:
            yield [(self.epoch, int(item)) for item in batches[position]]

    def _order(self, random: np.random.Generator) -> np.ndarray:
        """Return the items of an epoch in random order: each once, or those of all strata equally often."""
        import numpy as np

        if self.strata is None:
            return random.permutation(len(self.costs))
        labels = random.permutation(np.unique(self.strata))
        shares = [len(self.costs) * (rank + 1) // len(labels) for rank in range(len(labels))]
        drawn: list[np.ndarray] = []
        for label, count in zip(labels, np.diff([0, *shares])):
            items = np.flatnonzero(self.strata == label)
            rounds = [random.permutation(items) for _ in range(-(-int(count) // len(items)))]
            drawn.append(np.concatenate([*rounds, items[:0]])[:count])
        return random.permutation(np.concatenate(drawn))

    def _by_number(self, random: np.random.Generator) -> list[np.ndarray]:
        """Return batches of (nearly) equal number: within each window of batches the items are sorted by cost."""
        import numpy as np

        order = self._order(random)
        windows = -(-self.total // self.window)
        bounds = [round(self.total * number / windows) for number in range(windows + 1)]
        batches: list[np.ndarray] = []
        for first, last in pairwise(bounds):
            part = order[_share(len(order), first, self.total) : _share(len(order), last, self.total)]
            part = part[np.argsort(self.costs[part], kind="stable")]
            batches.extend(np.array_split(part, last - first))
        return batches

    def _by_cost(self, random: np.random.Generator) -> list[np.ndarray]:
        """Return batches within the budget of cost, of all items sorted by cost, equal ones in random order.

        The sequence of costs, and with it the number of batches, is the same in every epoch.
        """
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
