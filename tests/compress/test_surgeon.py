"""Optimal brain surgeon: what it says of a removal is what least squares leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerance import close

from topwork_compress import surgeon
from topwork_compress.surgeon import removal_losses

UNITS, OUTPUTS, ROWS = 6, 3, 200


def problem(width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a projection reads, with columns that depend on one another, its weight, and the columns of each unit."""
    generator = torch.Generator().manual_seed(seed)
    draw: Any = {"generator": generator, "dtype": torch.float64}
    count = UNITS * width
    mixing = torch.eye(count, dtype=torch.float64) + torch.randn(count, count, **draw)
    mixed = torch.randn(ROWS, count, **draw) @ mixing
    columns = torch.randperm(count, generator=generator).reshape(UNITS, width)
    return mixed, torch.randn(count, OUTPUTS, **draw), columns


def left_over(read: torch.Tensor, weight: torch.Tensor, columns: torch.Tensor, removed: set[int]) -> float:
    """The mean squared error of the best weight without some units, by least squares on the rows themselves."""
    stay = [column for unit, some in enumerate(columns.tolist()) if unit not in removed for column in some]
    target = read @ weight
    if not stay:
        return float(target.square().sum() / ROWS)
    fitted = torch.linalg.lstsq(read[:, stay], target).solution
    return float((target - read[:, stay] @ fitted).square().sum() / ROWS)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("steps", [2, 64])
def test_scores_are_what_least_squares_leaves_when_units_go_one_by_one(
    width: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgeon, "_RIDGE", 0.0)
    monkeypatch.setattr(surgeon, "_STEPS", steps)
    for seed in range(5):
        read, weight, columns = problem(width, seed)
        scores = removal_losses(read.T @ read / ROWS, weight, columns)
        without: set[int] = set()
        most = before = 0.0
        wanted = torch.zeros(UNITS, dtype=torch.float64)
        while len(without) < UNITS:
            losses = {unit: left_over(read, weight, columns, without | {unit}) for unit in set(range(UNITS)) - without}
            best = min(losses, key=lambda unit: losses[unit])
            most, before = max(most, losses[best] - before), losses[best]
            wanted[best] = most
            without.add(best)
        close(scores, wanted, steps=1e6)


def test_of_two_units_that_are_alike_one_costs_nothing_and_the_other_what_both_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surgeon, "_RIDGE", 1e-9)
    read, weight, columns = problem(1, 0)
    read[:, columns[1]] = read[:, columns[0]]
    scores = removal_losses(read.T @ read / ROWS, weight, columns)
    first, second = sorted(scores[:2].tolist())
    assert first < 1e-6 * second
