"""CKA: the unbiased estimate, batches, invariances, the permutation null."""

from __future__ import annotations

import math

import pytest
import torch

from topwork_analyses.similarity.cka import CkaSums, unbiased_cka, unbiased_hsic


def drawn(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_hsic_is_the_sum_over_distinct_rows_that_defines_it():
    first, second = drawn(6, 3, 0), drawn(6, 4, 1)
    left, right = first @ first.T, second @ second.T
    total, count = 0.0, 0
    for i in range(6):
        for j in range(6):
            for k in range(6):
                for m in range(6):
                    if len({i, j, k, m}) == 4:
                        count += 1
                        total += float(left[i, j] * (right[i, j] + right[k, m] - 2 * right[i, k]))
    assert float(unbiased_hsic(left, right)) == pytest.approx(total / count, rel=1e-10)


def test_states_are_like_themselves_turned_and_scaled_and_unlike_others():
    states = drawn(60, 8, 0)
    turn = torch.linalg.qr(drawn(8, 8, 2))[0]
    assert unbiased_cka(states, states) == pytest.approx(1, abs=1e-12)
    assert unbiased_cka(states, 3 * states @ turn) == pytest.approx(1, abs=1e-12)
    values = [unbiased_cka(drawn(60, 8, seed), drawn(60, 8, seed + 100)) for seed in range(40)]
    assert abs(sum(values) / 40) < 0.02, "unbiased: 0 on average for states that have nothing in common"


def test_batches_give_the_ratio_of_their_means():
    first, second = drawn(40, 6, 0), drawn(40, 6, 0) + 0.5 * drawn(40, 6, 1)
    sums = CkaSums(1, 1)
    parts = []
    for start in range(0, 40, 10):
        left, right = first[start : start + 10], second[start : start + 10]
        sums.add([left], [right])
        grams = left @ left.T, right @ right.T
        parts.append([float(unbiased_hsic(*pair)) for pair in (grams, grams[:1] * 2, grams[1:] * 2)])
    cross, own, other = (sum(values) for values in zip(*parts))
    assert float(sums.values()[0, 0]) == pytest.approx(cross / math.sqrt(own * other), rel=1e-12)


def test_rows_in_another_order_have_nothing_in_common():
    states = drawn(50, 8, 0)
    sums = CkaSums(1, 2, permutations=50, seed=0)
    sums.add([states], [states, drawn(50, 8, 9)])
    null = sums.null()
    assert null.shape == (50, 1, 2)
    assert float(null.mean().abs()) < 0.03
    assert float(sums.values()[0, 0]) > float(null[:, 0, 0].max())


def test_a_layer_without_variance_has_no_similarity():
    sums = CkaSums(1, 1)
    sums.add([torch.ones(8, 3)], [drawn(8, 3, 0)])
    assert math.isnan(float(sums.values()[0, 0]))
