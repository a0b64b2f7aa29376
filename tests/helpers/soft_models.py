"""Tiny models whose attention heads can only be pruned softly, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Slices
from topwork_lens.look import Look

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.3}


def bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=3, n_head=4, initializer_range=0.3))


def mpt() -> Any:
    from transformers import MptConfig, MptForCausalLM

    return MptForCausalLM(MptConfig(vocab_size=50, d_model=32, n_layers=3, n_heads=4, initializer_range=0.3))


def olmo2() -> Any:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        **SIZES, vocab_size=50, num_hidden_layers=3, intermediate_size=40, pad_token_id=0, num_key_value_heads=4
    )
    return Olmo2ForCausalLM(config)


def phi3() -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes: dict[str, Any] = {"num_hidden_layers": 3, "intermediate_size": 40, "num_key_value_heads": 2}
    return Phi3ForCausalLM(Phi3Config(**SIZES, **sizes, **ids, vocab_size=50))


def falcon(grouped: bool) -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    sizes: dict[str, Any] = {"num_hidden_layers": 3, "num_kv_heads": 2, "new_decoder_architecture": grouped}
    return FalconForCausalLM(FalconConfig(**SIZES, **sizes, vocab_size=50))


MODELS: dict[str, Callable[[], Any]] = {
    "bloom": bloom,
    "mpt": mpt,
    "olmo2": olmo2,
    "phi3": phi3,
    "falcon": lambda: falcon(True),
    "falcon, one key for all": lambda: falcon(False),
}


FUSED = {
    "phi3": {"path": "qkv_proj", "order": "stacked", "groups": 2},
    "falcon": {"path": "query_key_value", "order": "grouped", "groups": 2},
    "falcon, one key for all": {"path": "query_key_value", "order": "stacked", "groups": 1},
}


def make(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(3, 50, (3, 7))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor([6]), 0)}


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


class Rigid(nn.Module):
    """Two attention heads that nobody can cut, and whose context is put together in a way of its own."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.fused, self.out = nn.Linear(6, 12), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.fused(x).view(*x.shape[:2], 3, 2, 2).unbind(2)
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", query, key), -1)
        context = torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)
        return self.out(context.cumsum(-1) if self.mixed else context)


def rigid(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    if not isinstance(module, Rigid):
        return None
    fused = [[stack * 4 + head * 2 + place for stack in range(3) for place in range(2)] for head in range(2)]
    pair = [[0, 1], [2, 3]]
    cuts = [Slices("fused.weight", 0, fused), Slices("fused.bias", 0, fused), Slices("out.weight", 1, pair)]
    return AttentionLayer(path, "out", 2, 2, slices=tuple(cuts), prunable="soft", why="its sizes are written out")


def rigid_model(mixed: bool) -> tuple[nn.Module, torch.Tensor, Look]:
    from types import SimpleNamespace

    torch.manual_seed(0)
    model = nn.Sequential(Rigid(mixed), nn.Linear(6, 3)).eval()
    return model, torch.randn(2, 5, 6), Look(model, SimpleNamespace(hook=SimpleNamespace(attention_layer=rigid)))
