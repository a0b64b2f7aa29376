"""Tiny models whose attention heads are pruned or gated, in every way that a manifest can say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import topwork
from fences.models import CASES, Case
from topwork import AttentionLayer, Size, Slices, hookimpl

_DECODER: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "initializer_range": 0.3,
}
_WRITES = {"generation": {"max_new_tokens": 6}}
_OLMO2 = Case("text-generation", {"model_type": "olmo2", **_DECODER, "num_key_value_heads": 4}, _WRITES)
_PHI3 = Case("text-generation", {"model_type": "phi3", **_DECODER, "num_key_value_heads": 2}, _WRITES)


def hard() -> topwork.TaskModel:
    """Cut: two of the attention heads of one layer, all of the other."""
    work = CASES["text-classification bert"].build()
    topwork.prune_heads(work.model, {0: [1, 3], 1: [0, 1, 2, 3]})
    return work


def hard_under_a_task_head() -> topwork.TaskModel:
    """Cut in the backbone and in the decoder of a generic task head."""
    work = CASES["detection DetrHead on vit"].build()
    look = work.look()
    paths = [layer.path for layer in look.layers]
    look.prune_heads({paths[0]: [1], paths[-1]: [0]})
    return work


def soft() -> topwork.TaskModel:
    """Scattered at run time, because the module cannot be cut."""
    work = _OLMO2.build()
    assert topwork.prune_heads(work.model, {1: [2]}).layers[1]["form"] == "soft"
    return work


def variant() -> topwork.TaskModel:
    """Cut in a way that is not in the description of the architecture."""
    work = _PHI3.build()
    topwork.prune_heads(work.model, {0: [2], 1: [0, 1]})
    return work


def gates() -> topwork.TaskModel:
    """Factors on some attention heads, others switched off for good."""
    work = CASES["image-classification vit"].build()
    work.look().set_gates({0: [1.0, 0.5]})
    work.look().keep_masked({1: [1]})
    return work


class Interleaved(nn.Module):
    """Attention whose keys and values lie interleaved, head by head, in one matrix: no architecture has it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.query, self.both, self.out = nn.Linear(10, 12), nn.Linear(10, 24), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.query(x).unflatten(-1, (self.heads, 3)).transpose(1, 2)
        key, value = self.both(x).unflatten(-1, (self.heads, 6)).transpose(1, 2).chunk(2, -1)
        weights = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
        return x + self.out((weights @ value).transpose(1, 2).flatten(2))


class Teacher:
    """A plugin that describes `Interleaved`."""

    @hookimpl
    def attention_layer(self, path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
        if not isinstance(module, Interleaved):
            return None
        three = [[3 * head + i for i in range(3)] for head in range(module.heads)]
        six = [[6 * head + i for i in range(6)] for head in range(module.heads)]
        slices = [Slices("query.weight", 0, three), Slices("query.bias", 0, three), Slices("out.weight", 1, three)]
        slices += [Slices("both.weight", 0, six), Slices("both.bias", 0, six)]
        return AttentionLayer(path, "out", module.heads, 3, slices=tuple(slices), sizes=(Size("heads"),))


def taught() -> nn.Module:
    """Cut after a description by somebody else's plugin; a module without a task."""
    torch.manual_seed(0)
    model = nn.Sequential(Interleaved(), nn.Tanh(), Interleaved()).eval()
    x = torch.randn(3, 7, 10)
    look = topwork.look(model, plugins=topwork.load_plugins(extra=[Teacher()]))
    look.prune_heads({0: [1], 1: [0, 3]}, check=lambda: model(x))
    return model


def plain() -> Any:
    """Cut in one layer, gated in the other; a model of transformers without a task, in bfloat16."""
    import transformers

    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 40, "initializer_range": 0.3}
    config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)
    model = transformers.GPT2LMHeadModel(config).to(torch.bfloat16).eval()
    topwork.prune_heads(model, {0: [0, 2]})
    topwork.look(model).set_gates({1: [1.0, 0.5, 0.0, 1.0]})
    return model


WORKS: dict[str, Callable[[], topwork.TaskModel]] = {
    function.__name__: function for function in (hard, hard_under_a_task_head, soft, variant, gates)
}
