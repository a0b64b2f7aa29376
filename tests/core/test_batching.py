"""Plans of batches: nothing lost, nothing twice, within budgets, equal on all processes, decided by seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest

from topwork import TopworkError
from topwork.data.batching import Budget, TrainBatches, plan


def cases(number, seed):
    """Random sets of costs, many of them equal, and budgets."""
    random = np.random.default_rng(seed)
    for _ in range(number):
        costs = random.integers(1, random.choice([2, 10, 500]), size=random.integers(1, 300))
        yield random, costs


def positions(batches):
    return [position for batch in batches for _, position in batch]


def test_a_plan_holds_everything_once_within_its_budget():
    for random, costs in cases(60, 1):
        counts = random.integers(1, 4, size=len(costs)).tolist()
        budget = Budget(int(random.integers(1, 40)), int(random.integers(1, 900)) if random.random() < 0.7 else None)
        batches = plan(costs.tolist(), budget, counts)
        assert sorted(position for batch in batches for position in batch) == list(range(len(costs)))
        largest = [max(costs[position] for position in batch) for batch in batches]
        assert largest == sorted(largest, reverse=True)
        for batch, cost in zip(batches, largest):
            items = sum(counts[position] for position in batch)
            within = items <= budget.items and (budget.cost is None or items * cost <= budget.cost)
            assert within or len(batch) == 1
    assert plan([], Budget(3)) == []


@pytest.mark.parametrize("by_cost", [False, True])
def test_every_item_once_an_epoch_over_all_processes_with_equal_counts(by_cost):
    for random, costs in cases(40, 2):
        budget = Budget(2**31, int(random.integers(20, 2000))) if by_cost else Budget(int(random.integers(1, 40)))
        for count in (1, 2, 3):
            if len(costs) < count:
                continue
            samplers = [TrainBatches(costs, budget, 7, index, count, window=4) for index in range(count)]
            for epoch in (0, 1):
                for sampler in samplers:
                    sampler.set_epoch(epoch)
                shares = [list(sampler) for sampler in samplers]
                assert {len(share) for share in shares} == {len(samplers[0])}
                assert sorted(place for share in shares for place in positions(share)) == list(range(len(costs)))
                assert all(batch and {number for number, _ in batch} == {epoch} for share in shares for batch in share)


def test_budgets_are_kept():
    for random, costs in cases(40, 3):
        items = int(random.integers(2, 40))
        for count in (1, 2, 3):
            if len(costs) < items * count:
                continue
            sizes = [
                len(batch)
                for index in range(count)
                for batch in TrainBatches(costs, Budget(items), 0, index, count, window=3)
            ]
            assert max(sizes) <= items
        for batch in TrainBatches(costs, Budget(2**31, 600), 0):
            assert len(batch) * max(costs[position] for _, position in batch) <= max(600, costs.max())


def test_sizes_differ_by_one_at_most():
    costs = np.arange(1, 104)
    for count in (1, 2, 3):
        sizes = {len(batch) for index in range(count) for batch in TrainBatches(costs, Budget(8), 0, index, count)}
        assert max(sizes) - min(sizes) <= 1


def test_the_order_comes_from_seed_and_epoch_alone():
    costs = np.random.default_rng(0).integers(1, 50, size=203)
    for budget in (Budget(8), Budget(2**31, 300)):
        first, again, other = (TrainBatches(costs, budget, seed) for seed in (3, 3, 4))
        list(again), list(again)  # what was drawn before does not matter
        first.set_epoch(2)
        again.set_epoch(2)
        other.set_epoch(2)
        assert list(first) == list(again)
        assert list(first) != list(other)
        assert [len(batch) for batch in first] == [len(batch) for batch in again]
        again.set_epoch(1)
        assert positions(first) != positions(again)
        assert len(list(first)) == len(list(again)) == len(first)


def test_windows_bring_items_of_like_cost_together():
    costs = np.random.default_rng(1).integers(1, 1000, size=512)

    def padding(window):
        return sum(
            len(batch) * max(costs[position] for _, position in batch) - sum(costs[position] for _, position in batch)
            for batch in TrainBatches(costs, Budget(8), 0, window=window)
        )

    assert padding(64) < 0.1 * padding(1)


def test_batches_change_their_company_between_epochs():
    sampler = TrainBatches(np.random.default_rng(1).integers(1, 9, size=96), Budget(8), 0, window=4)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append({frozenset(position for _, position in batch) for batch in sampler})
    assert len(epochs[0] & epochs[1]) <= 1


def test_too_few_items_for_the_processes():
    with pytest.raises(TopworkError, match="2 training items are too few for 3 processes"):
        TrainBatches([1, 1], Budget(4), 0, 0, 3)
    shares = [list(TrainBatches([1, 1, 1, 1, 1], Budget(1), 0, index, 2)) for index in range(2)]
    assert [len(share) for share in shares] == [2, 2]
    assert sorted(place for share in shares for place in positions(share)) == [0, 1, 2, 3, 4]
