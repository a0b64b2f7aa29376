"""The search: below the budget, to the unit, and as good as trying everything on a toy."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from lens_models import make

import topwork
from topwork import UsageError
from topwork_compress.compression import Compression
from topwork_compress.plan import Budget, Settings
from topwork_compress.rearrange import objective, rearranged
from topwork_compress.search import in_multiples, search
from topwork_compress.units import Choice
from topwork_lens.scoring.plain_models import own_loss, single_items


def toy(seed: int, head: int, neuron: int) -> list[Choice]:
    """2 layers of 2 heads and 4 neurons with random scores."""
    generator = torch.Generator().manual_seed(seed)
    choices = []
    kinds: tuple[tuple[Literal["heads", "neurons"], int, int], ...] = (("heads", 2, head), ("neurons", 4, neuron))
    for layer in range(2):
        for kind, count, cost in kinds:
            for index in range(count):
                score = float(torch.rand((), generator=generator))
                choices.append(Choice(f"{layer}.{kind}", kind, (index,), cost, score))
    return choices


def all_subsets(choices: list[Choice]) -> Iterator[tuple[Choice, ...]]:
    for count in range(len(choices) + 1):
        yield from itertools.combinations(choices, count)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [9, 14, 21, 30])
def test_p2_the_search_finds_what_trying_everything_finds(seed: int, budget: int) -> None:
    choices = toy(seed, head=5, neuron=2)
    removed, spent = search(choices, budget, fixed=1, at_least=0)
    kept = [choice for choice in choices if choice not in removed]
    assert spent == 1 + sum(choice.cost for choice in kept) <= budget
    best = max(
        sum(choice.score for choice in subset)
        for subset in all_subsets(choices)
        if 1 + sum(choice.cost for choice in subset) <= budget
    )
    assert sum(choice.score for choice in kept) == pytest.approx(best)


def test_every_layer_keeps_what_it_must_and_a_budget_below_that_is_an_error() -> None:
    choices = toy(0, 5, 2)
    removed, _ = search(choices, 15, fixed=1)
    left = {choice.path for choice in choices if choice not in removed}
    assert left == {choice.path for choice in choices}
    with pytest.raises(UsageError, match="cannot be removed"):
        search(choices, 14, fixed=1)


def test_widths_are_multiples() -> None:
    choices = in_multiples(toy(3, 5, 2), 2)
    removed, spent = search(choices, 24, fixed=0)
    widths = dict.fromkeys(("0.neurons", "1.neurons"), 4)
    for choice in removed:
        if choice.kind == "neurons":
            widths[choice.path] -= len(choice.members)
    assert all(width % 2 == 0 and width for width in widths.values())
    assert spent <= 24


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_p2_predicted_operations_are_those_of_the_cut_model(name: str) -> None:
    model, batch = make(name)
    result = topwork.compress(model, [batch], macs=0.6)
    assert result.plan.cost == result.after <= 0.6 * result.before
    assert result.after > 0.58 * result.before


def test_parameters_below_a_budget_in_multiples() -> None:
    model, batch = make("bert")
    before = sum(parameter.numel() for parameter in model.parameters())
    result = topwork.compress(model, [batch], parameters=0.7, multiple=8)
    assert result.plan.cost == sum(parameter.numel() for parameter in model.parameters()) <= 0.7 * before
    assert all(line["after"] % 8 == 0 for line in result.json()["tables"]["what is left"] if line["kind"] == "neurons")


@pytest.mark.parametrize("seed", range(5))
def test_p5_rearrangement_never_raises_its_objective(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(30, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    removed = torch.randperm(12, generator=generator)[:5].tolist()
    swapped = rearranged(gradients, removed)
    assert len(swapped) == 5
    assert objective(gradients, swapped) <= objective(gradients, removed)
    # a unit goes with the one that cancels it out, whatever their size
    gradients[:, 0] = 50.0
    gradients[:, 1] = -50.0
    assert rearranged(gradients, [0, 3]) == [0, 1]


def test_wrong_budgets_are_errors() -> None:
    model, batch = make("bert")
    for options in ({}, {"macs": 0.5, "parameters": 0.5}, {"macs": 1.5}, {"macs": 0.5, "score": "best"}, {"mac": 0.5}):
        with pytest.raises((UsageError, TypeError)):
            topwork.compress(model, [batch], **options)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match="cannot be removed"):
        topwork.compress(model, [batch], macs=0.01)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_random_choices_have_the_same_counts() -> None:
    model, batch = make("bert")
    compression = Compression(model, list(single_items(batch)), own_loss, None, Settings())
    plan = compression.plan(Budget(macs=0.6))
    drawn = compression.random(plan, 3)
    assert {path: len(indices) for path, indices in drawn.items()} == {p: len(i) for p, i in plan.removed.items()}
    assert drawn != plan.removed


def test_whole_layers_go_first_and_the_budget_counts_them() -> None:
    model, batch = make("gpt2")
    layer = model.transformer.h[1]
    with torch.no_grad():
        for projection in (layer.attn.c_proj, layer.mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    result = topwork.compress(model, [batch], macs=0.6, layers=1)
    assert result.left_out == ["transformer.h.1"]
    assert len(model.transformer.h) == 2
    assert result.after == result.plan.cost <= 0.6 * result.before
    assert result.measured_layers[0]["influence"] == pytest.approx(0, abs=1e-6)


def test_a_budget_that_fails_after_layers_puts_them_back() -> None:
    model, batch = make("gpt2")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match="cannot be removed"):
        topwork.compress(model, [batch], macs=0.01, layers=1)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(UsageError, match="not 9"):
        topwork.compress(model, [batch], macs=0.5, layers=9)
