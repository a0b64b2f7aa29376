"""A stranger teaches the lens one attention module by the hook `attention_layer`; everything works on it at once."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tolerance import close
from torch import nn

from topwork import AttentionLayer, Size, Slices, alterations
from topwork_lens.look import Look
from topwork_lens.pruning.rebuild import rebuild


class Strange(nn.Module):
    """Four attention heads of width 3, whose keys and values lie interleaved, head by head, in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.amount = 4
        self.ask = nn.Linear(10, 12)
        self.answer = nn.Linear(10, 24)
        self.back = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.ask(x).unflatten(-1, (self.amount, 3)).transpose(1, 2)
        key, value = self.answer(x).unflatten(-1, (self.amount, 6)).transpose(1, 2).chunk(2, -1)
        weights = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
        return x + self.back((weights @ value).transpose(1, 2).flatten(2))


def describe(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    if not isinstance(module, Strange):
        return None
    heads = range(module.amount)
    three = [[3 * head + i for i in range(3)] for head in heads]
    six = [[6 * head + i for i in range(6)] for head in heads]
    slices = [Slices("ask.weight", 0, three), Slices("ask.bias", 0, three), Slices("back.weight", 1, three)]
    slices += [Slices("answer.weight", 0, six), Slices("answer.bias", 0, six)]
    return AttentionLayer(path, "back", len(heads), 3, slices=tuple(slices), sizes=(Size("amount"),))


PLUGINS = SimpleNamespace(hook=SimpleNamespace(attention_layer=describe))


def make() -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(Strange(), nn.Tanh(), Strange(), nn.Linear(10, 2)).eval(), torch.randn(3, 7, 10)


def test_masked_equals_pruned_twice_and_rebuilt() -> None:
    model, x = make()
    look = Look(model, PLUGINS)
    with look.mask_heads({0: [1], 1: [0, 3]}):
        masked = model(x)
    look.prune_heads({0: [1], 1: [0, 3]}, check=lambda: model(x))
    close(model(x), masked)
    whole, _ = make()
    with Look(whole, PLUGINS).mask_heads({0: [1, 2], 1: [0, 3]}):
        masked = whole(x)
    result = look.prune_heads({0: [1, 2]}, check=lambda: model(x))
    assert result.removed == {"0": [2]}
    close(model(x), masked)
    assert [layer.kept for layer in look.layers] == [(0, 3), (1, 2)]
    fresh, _ = make()
    rebuild(fresh, copy.deepcopy(alterations(model)["lens"]), PLUGINS)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))


def test_weights_and_importance() -> None:
    model, x = make()
    look = Look(model, PLUGINS)
    with torch.no_grad(), look.capture("weights", "context", "entropy") as seen:
        model(x)
    value = model[0].answer(x).unflatten(-1, (4, 6)).transpose(1, 2).chunk(2, -1)[1]
    expected = (seen["weights", 0] @ value).transpose(1, 2)
    close(expected, seen["context", 0])
    assert seen["entropy", 1].shape == (3, 4, 7)
    scores = look.importance([{"input": x}], row_losses=None, method="random")
    assert [len(layer.scores) for layer in scores.layers] == [4, 4]


@pytest.mark.parametrize("size", [0, 1])
def test_all_attention_heads_of_a_layer(size: int) -> None:
    model, x = make()
    look = Look(model, PLUGINS)
    with look.mask_heads({size: [0, 1, 2, 3]}):
        masked = model(x)
    look.prune_heads({size: [0, 1, 2, 3]}, check=lambda: model(x))
    close(model(x), masked)
    assert look.layers[size].kept == ()
