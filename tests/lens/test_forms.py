"""The form that each layer gets where a row is not enough: keys and values that serve another layer, norms over all
attention heads, and a feed-forward network that is spelled like an output projection."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from tolerance import close
from torch import nn

from topwork import Refused, alterations
from topwork_lens.look import Look
from topwork_lens.pruning.rebuild import rebuild

WIDTH, HEADS = 16, 4


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[items, positions, heads or groups * 4] each -> [items, positions, heads * 4]."""
    query, key, value = (state.unflatten(-1, (-1, 4)).transpose(1, 2) for state in (query, key, value))
    key, value = (state.repeat_interleave(query.shape[1] // state.shape[1], 1) for state in (key, value))
    weights = torch.softmax(query @ key.transpose(-1, -2) / 2, -1)
    return (weights @ value).transpose(1, 2).flatten(2)


class Lender(nn.Module):
    """Gives its keys and values away."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        key, value = self.k_proj(x), self.v_proj(x)
        return self.o_proj(attended(self.q_proj(x), key, value)), key, value


class Borrower(nn.Module):
    """Attends to another layer's keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.q_proj, self.o_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return self.o_proj(attended(self.q_proj(x), key, value))


class Lending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.lender, self.borrower = Lender(), Lender(), Borrower()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.before(x)[0]
        given, key, value = self.lender(x)
        return x + given + self.borrower(x + given, key, value)


class Normed(nn.Module):
    """A norm over all attention heads: of the queries, or of the context. Two share a key and a value."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.place = HEADS, 2, place
        self.q_proj, self.o_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k_proj, self.v_proj = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH // 2)
        self.norm = nn.RMSNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.q_proj(x)
        query = self.norm(query) if self.place == "query" else query
        context = attended(query, self.k_proj(x), self.v_proj(x))
        return self.o_proj(self.norm(context) if self.place == "context" else context)


def made(model: nn.Module) -> tuple[Any, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval(), torch.randn(2, 5, WIDTH, generator=generator)


def pruned(model: Any, x: torch.Tensor, heads: dict[Any, list[int]]) -> tuple[Any, list[str]]:
    """A pruned copy that computes what the masked model computes, and the form of each layer."""
    other = copy.deepcopy(model)
    with Look(model).mask_heads(heads), torch.no_grad():
        masked = model(x)
    result = Look(other).prune_heads(heads, check=lambda: other(x))
    with torch.no_grad():
        close(other(x), masked)
    assert result.check.proves
    return other, [str(line["form"]) for line in result.layers]


def loaded(model: Any, fresh: Any, x: torch.Tensor) -> None:
    """A fresh model computes the same with the manifest and the weights of a pruned one."""
    rebuild(fresh, json.loads(json.dumps(alterations(model)["lens"])))
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("gone", [[1], [0, 2], [0, 1, 2, 3]])
def test_only_the_layer_that_lends_its_keys_and_values_is_soft(gone: list[int]) -> None:
    """Alone, each layer computes the same when it is cut: the whole model tells which of them another one needs."""
    model, x = made(Lending())
    cut, forms = pruned(model, x, {"before": [1, 2], "lender": gone})
    assert forms == ["hard", "soft", "whole"]
    assert cut.before.k_proj.weight.shape == (8, WIDTH)
    # keys and values stay whole; queries and the output projection are compact
    assert cut.lender.k_proj.weight.shape == cut.lender.v_proj.weight.shape == (WIDTH, WIDTH)
    assert not hasattr(cut.lender.k_proj, "parametrizations")
    kept = 4 * (HEADS - len(gone))
    assert cut.lender.q_proj.parametrizations.weight.original.shape == (kept, WIDTH)
    assert cut.lender.o_proj.parametrizations.weight.original.shape == (WIDTH, kept)
    loaded(cut, Lending(), x)
    if len(gone) < 3:
        pruned(cut, x, {"lender": [3], "before": [0]})


@pytest.mark.parametrize("gone", [[1], [0, 1], [0, 1, 2, 3]])
def test_queries_that_are_normed_together(gone: list[int]) -> None:
    """Queries cannot go, and a key and a value only with the last attention head that shares them. The output
    projection alone is compact then, because what it receives is seen to be weights @ values."""
    model, x = made(nn.Sequential(Normed("query"), nn.Linear(WIDTH, WIDTH)))
    cut, forms = pruned(model, x, {0: gone})
    loaded(cut, nn.Sequential(Normed("query"), nn.Linear(WIDTH, WIDTH)), x)
    assert forms == ["soft"]
    assert cut[0].o_proj.parametrizations.weight.original.shape == (WIDTH, 4 * (HEADS - len(gone)))
    assert not hasattr(cut[0].q_proj, "parametrizations") or len(gone) == HEADS


class Beside(Lender):
    """Its values also pass the attention by."""

    def forward(self, x: torch.Tensor) -> Any:
        given, _, value = super().forward(x)
        return given + value


@pytest.mark.parametrize("gone", [[1], [0, 1, 2, 3]])
def test_values_that_also_pass_the_attention_by(gone: list[int]) -> None:
    """They stay whole, also when all attention heads go: queries, keys and the output projection are compact."""
    model, x = made(nn.Sequential(Beside(), nn.Linear(WIDTH, WIDTH)))
    cut, forms = pruned(model, x, {0: gone})
    assert forms == ["soft"]
    assert not hasattr(cut[0].v_proj, "parametrizations")
    for name, shape in (("q_proj", (4 * (HEADS - len(gone)), WIDTH)), ("o_proj", (WIDTH, 4 * (HEADS - len(gone))))):
        assert getattr(cut[0], name).parametrizations.weight.original.shape == shape
    loaded(cut, nn.Sequential(Beside(), nn.Linear(WIDTH, WIDTH)), x)


def test_a_context_that_is_normed_as_a_whole_is_refused() -> None:
    model, x = made(nn.Sequential(Normed("context"), nn.Linear(WIDTH, WIDTH)))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Refused) as caught:
        Look(model).prune_heads({0: [1]}, check=lambda: model(x))
    assert caught.value.reason == "not_a_head"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Dense(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.dense = nn.Linear(before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x)


class Own(nn.Module):
    """Attention with its own output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads = HEADS
        self.query, self.key, self.value, self.dense = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(attended(self.query(x), self.key(x), self.value(x)))


class Block(nn.Module):
    """An attention, and a feed-forward network whose second layer is called `output.dense`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Own()
        self.intermediate, self.output = Dense(WIDTH, 2 * WIDTH), Dense(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.output(torch.relu(self.intermediate(x)))


def test_a_feed_forward_network_is_no_output_projection() -> None:
    model, x = made(Block())
    assert [(layer.path, layer.output) for layer in Look(model).layers] == [("attention", "dense")]
    assert pruned(model, x, {0: [1]})[1] == ["hard"]
