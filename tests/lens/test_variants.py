"""Hard pruning of modules that know their size in more places than a row says: integers, configurations, parameters,
arguments, reshapes and fused projections, each found by its size and proved by the check."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import soft_models
import torch
from tolerance import close
from torch import nn

from topwork import Refused, alterations
from topwork_lens.look import Look
from topwork_lens.pruning import slicing
from topwork_lens.pruning.arguments import ArgumentCut
from topwork_lens.pruning.rebuild import rebuild

SIZES = soft_models.SIZES


def gpt_oss() -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes: dict[str, Any] = {"num_hidden_layers": 3, "intermediate_size": 40, "num_key_value_heads": 2, "head_dim": 8}
    experts: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1}
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return GptOssForCausalLM(GptOssConfig(**SIZES, **sizes, **experts, **ids, vocab_size=50))


def blip() -> Any:
    from transformers import BlipVisionConfig, BlipVisionModel

    sizes: dict[str, Any] = {"num_hidden_layers": 3, "intermediate_size": 40, "image_size": 16, "patch_size": 8}
    return BlipVisionModel(BlipVisionConfig(**SIZES, **sizes))


#: how to build a model, and what its variant must name
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "bloom": (soft_models.bloom, "arguments"),
    "mpt": (soft_models.mpt, "arguments"),
    "phi3": (soft_models.phi3, "fused"),
    "falcon": (lambda: soft_models.falcon(True), "fused"),
    "falcon, one key for all": (lambda: soft_models.falcon(False), "fused"),
    "gpt_oss": (gpt_oss, "parts"),
    "blip": (blip, "fit"),
}


def make(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if name == "blip":
        return model, {"pixel_values": torch.randn(3, 3, 16, 16)}
    ids = torch.randint(3, 50, (3, 7))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor([6]), 0)}


def first_output(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    cache = {} if "pixel_values" in inputs else {"use_cache": False}
    with torch.no_grad():
        found: torch.Tensor = model(**inputs, **cache)[0]
    return found


def entries(model: Any) -> list[dict[str, Any]]:
    return list(alterations(model)["lens"]["layers"].values())


@pytest.mark.parametrize("name", list(MODELS))
def test_cut_twice_saved_and_trained(name: str) -> None:
    model, inputs = make(name)
    whole, look = copy.deepcopy(model), Look(model)
    plain = first_output(model, inputs)
    first, second = {0: [1], 2: [0, 3]}, {0: [1, 2], 1: [3], 2: [0, 3]}
    for heads in (first, second):
        with Look(whole).mask_heads(heads):
            masked = first_output(whole, inputs)
        result = look.prune_heads(heads, check=inputs)
        close(masked, first_output(model, inputs))
        assert (masked - plain).abs().max() > 1e-3 * plain.abs().max()
        assert [line["form"] for line in result.layers] == ["hard" if n in heads else "whole" for n in range(3)]
        assert result.flops[1].attention < result.flops[0].attention
        assert result.parameters_after < result.parameters_before
        assert [layer.removed for layer in look.layers] == [tuple(heads.get(number, ())) for number in range(3)]
    assert all(MODELS[name][1] in entry["variant"] for entry in entries(model))

    fresh, _ = make(name)
    rebuild(fresh, json.loads(json.dumps(alterations(model)["lens"])))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(first_output(model, inputs), first_output(fresh, inputs))
    assert alterations(fresh) == alterations(model)
    assert torch.equal(first_output(model, inputs), first_output(copy.deepcopy(model), inputs))

    fresh(**inputs)[0].sum().backward()
    assert all(parameter.grad is not None for path, parameter in fresh.named_parameters() if "_proj" in path)


@pytest.mark.parametrize("name", list(MODELS))
def test_it_holds_for_other_shapes_than_those_it_was_checked_with(name: str) -> None:
    """As many rows, or positions, as there are attention heads, or as are left of them."""
    model, inputs = make(name)
    whole = copy.deepcopy(model)
    heads = {0: [0], 1: [1, 2], 2: [2]}
    Look(model).prune_heads(heads, check=inputs)
    for rows, positions in ((1, 7), (2, 2), (3, 4), (4, 4), (4, 1), (6, 3), (8, 7)):
        other = {key: value.repeat(3, *[1] * (value.dim() - 1))[:rows] for key, value in inputs.items()}
        if "input_ids" in other:
            other = {key: value[:, :positions] for key, value in other.items()}
        with Look(whole).mask_heads(heads):
            close(first_output(whole, other), first_output(model, other))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "blip"])
def test_generating_with_a_cache_is_generating_without(name: str) -> None:
    model, inputs = make(name)
    Look(model).prune_heads({0: [1], 1: [0, 1]}, check=inputs)
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    one = {key: value[:1, :6] for key, value in inputs.items()}
    assert torch.equal(model.generate(**one, **options), model.generate(**one, **options, use_cache=False))


@pytest.mark.parametrize("name", list(MODELS))
def test_all_attention_heads_of_a_layer(name: str) -> None:
    model, inputs = make(name)
    with Look(model).mask_heads({1: [0, 1, 2, 3]}):
        masked = first_output(model, inputs)
    result = Look(model).prune_heads({1: [0, 1, 2, 3]}, check=inputs)
    close(masked, first_output(model, inputs))
    assert result.layers[1]["kept"] == []


@pytest.mark.parametrize("name", ["bloom", "blip", "phi3"])
def test_compiled_and_exported(name: str) -> None:
    model, inputs = make(name)
    Look(model).prune_heads({0: [1], 1: [0, 1]}, check=inputs)
    right = first_output(model, inputs)
    options: dict[str, Any] = {} if name == "blip" else {"use_cache": False}
    program = torch.export.export(model, (), {**inputs, **options}, strict=False)
    close(program.module()(**inputs, **options)[0], right)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        close(compiled(**inputs, **options)[0], right)


def test_the_weights_are_seen_and_gates_work_after_the_cut() -> None:
    for name in MODELS:
        model, inputs = make(name)
        whole = copy.deepcopy(model)
        Look(model).prune_heads({0: [1], 1: [0, 1]}, check=inputs)
        with Look(model).capture("weights") as seen, torch.no_grad():
            model(**inputs)
        with Look(whole).capture("weights") as before, torch.no_grad():
            whole(**inputs)
        # the first layer has the inputs that it had, so what is left attends as it did
        one, other = (found.calls("weights", Look(model)[0].path)[0] for found in (seen, before))
        close(one, other[:, [0, 2, 3]])
        with Look(model).mask_heads({0: [2]}), Look(whole).mask_heads({0: [1, 2], 1: [0, 1]}):
            close(first_output(whole, inputs), first_output(model, inputs))


def test_a_layer_has_its_own_numbers_and_the_configuration_stays() -> None:
    model, inputs = make("phi3")
    Look(model).prune_heads({0: [1]}, check=inputs)
    cut, whole = (model.model.layers[number].self_attn.config for number in (0, 1))
    assert (model.config.num_attention_heads, whole.num_attention_heads) == (4, 4)
    assert whole is model.config
    assert cut.num_attention_heads == 3
    # what is changed for the whole model later holds for this layer too
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    assert cut._attn_implementation == "eager" != before


def test_what_fails_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant takes a wrong position: the model is afterwards what it was, its integers and calls included."""
    right = slicing.index_of
    for name in ("bloom", "blip", "phi3"):
        model, inputs = make(name)
        before, state = first_output(model, inputs), copy.deepcopy(model.state_dict())
        numbers = [{k: v for k, v in vars(m).items() if isinstance(v, int)} for m in model.modules()]
        with monkeypatch.context() as patch:
            patch.setattr(slicing, "index_of", lambda *args: right(*args)[::-1])
            patch.setattr("topwork_lens.pruning.soft.index_of", lambda *args: right(*args)[1:])
            with pytest.raises(Refused):
                Look(model).prune_heads({0: [1]}, check=inputs)
        assert torch.equal(before, first_output(model, inputs))
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
        assert numbers == [{k: v for k, v in vars(m).items() if isinstance(v, int)} for m in model.modules()]
        assert not any("forward" in vars(module) for module in model.modules())
        assert not any(isinstance(hook, ArgumentCut) for m in model.modules() for hook in m._forward_pre_hooks.values())
        assert alterations(model) == {}


class Filtered(nn.Module):
    """Four attention heads whose queries, keys and values pass a convolution with one filter for each channel, and
    whose values are normalised by running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.layer_idx = 4, 4
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(6, 8) for _ in range(3))
        self.mixed, self.norm = nn.Conv1d(24, 24, 3, padding=1, groups=24), nn.BatchNorm1d(8)
        self.o_proj = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.norm(self.v_proj(x).transpose(1, 2)).transpose(1, 2)
        fused = torch.cat([self.q_proj(x), self.k_proj(x), value], -1)
        fused = self.mixed(fused.transpose(1, 2)).transpose(1, 2)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in fused.chunk(3, -1))
        weights = torch.softmax(query @ key.transpose(-1, -2), -1)
        return self.o_proj((weights @ value).transpose(1, 2).flatten(2))


def test_convolutions_and_their_norms_are_cut_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Filtered(), nn.Linear(6, 3)).eval(), torch.randn(2, 5, 6)
    layer: Any = model[0]
    with torch.no_grad():
        layer.norm.running_mean.uniform_(-1, 1)
        layer.norm.running_var.uniform_(0.5, 2)
    with Look(model).mask_heads({0: [1, 2]}):
        masked = model(x)
    result = Look(model).prune_heads({0: [1, 2]}, check=lambda: model(x))
    close(model(x), masked)
    assert result.layers[0]["form"] == "hard"
    assert (layer.mixed.groups, layer.mixed.in_channels, layer.norm.num_features) == (12, 12, 4)
    # a number that is four by chance is no size
    assert layer.layer_idx == 4
    with monkeypatch.context() as patch:
        patch.setattr(slicing, "_apply_variant", lambda *_: 1 / 0)
        patch.setattr("topwork_lens.pruning.strategies.soften", lambda *_, **__: 1 / 0)
        with pytest.raises(Refused):
            Look(model).prune_heads({0: [0]}, check=lambda: model(x))
    assert (layer.mixed.groups, layer.mixed.in_channels, layer.norm.num_features) == (12, 12, 4)
    close(model(x), masked)
