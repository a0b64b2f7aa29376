"""CKA: the unbiased estimate, batches, invariances, the permutation null."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lens_recipes
import pytest
import torch

import topwork
from topwork_analyses.similarity.cka import CkaSums, unbiased_cka, unbiased_hsic
from topwork_analyses.similarity.drift import attention_divergence


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


def test_divergence_of_attention_is_that_of_scipy():
    from scipy.spatial.distance import jensenshannon

    before, after = (drawn(12, 5, seed).view(2, 6, 5).softmax(-1) for seed in (0, 1))
    wanted = [(jensenshannon(before[head], after[head], axis=-1) ** 2).mean() for head in range(2)]
    assert attention_divergence(before, after).tolist() == pytest.approx(wanted, rel=1e-9)
    eye = torch.eye(4)[None]
    assert float(attention_divergence(eye, eye.roll(1, -1))) == pytest.approx(math.log(2))


def drift(folder: Path, stages: list[Any], **options: Any) -> Any:
    recipe = lens_recipes.recipe(folder, [*stages, {"drift": {"permutations": 20, "draws": 20, **options}}])
    return topwork.run(recipe, folder=folder / "run", quiet=True)


def test_a_model_that_was_not_trained_has_not_moved_and_a_trained_one_has(tmp_path):
    (tmp_path / "same").mkdir()
    same = drift(tmp_path / "same", ["save", {"train": {"steps": 1, "learning_rate": 1e-12, "batch_size": 8}}])
    folder = str(same.model_folder)
    (tmp_path / "trained").mkdir()
    train = {"train": {"steps": 6, "learning_rate": 3e-2, "batch_size": 8, "checkpoint_every": "never"}}
    moved = drift(tmp_path / "trained", [train], other=folder).results[-1]["result"]
    (tmp_path / "still").mkdir()
    still = drift(tmp_path / "still", [], other=folder).results[-1]["result"]
    assert [line["layer"] for line in still["tables"]["layers"]] == [0, 1, 2]
    assert all(line["cka"] == pytest.approx(1, abs=1e-4) for line in still["tables"]["layers"]), still
    assert all(line["null"] < 0.5 for line in still["tables"]["layers"])
    assert still["metrics"]["largest_divergence"] < 1e-6 < moved["metrics"]["largest_divergence"]
    assert moved["metrics"]["least_cka"] < 0.999
    lines = moved["tables"]["attention heads"]
    assert len(lines) == 8 and lines == sorted(lines, key=lambda line: -line["divergence"])
    assert all(line["low"] <= line["divergence"] <= line["high"] for line in lines)
