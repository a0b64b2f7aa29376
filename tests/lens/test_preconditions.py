"""One precondition of masks, gates, scores, ablation and pruning: a slice of the context is one attention head's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lens_models
import pytest
import torch
from tolerance import close

import topwork
from architectures import build
from topwork import Batch, Item, Refused
from topwork_lens.gates import factors_of, gated
from topwork_lens.layers import mixing
from topwork_lens.look import Look

#: model type -> a layer that mixes its attention heads before the output projection
MIXING = {
    "bitnet": "layers.0.self_attn",
    "diffllama": "layers.0.self_attn",
    "kosmos-2": "text_model.model.layers.0.self_attn",
    "minimax": "layers.1.self_attn",
    "timm/efficientvit_m0": "stages.0.blocks.0.mixer.m.attn",
}
#: model types in which a gate, a sink or shared scores stand in the way, but attention heads stay apart
APART = ("autoformer", "deepseek_v4", "olmo2", "qwen3_next", "gpt_oss", "deberta-v2", "convbert", "t5", "swinv2")


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "_MEASURED", {})


def losses(model: Any, batch: Batch) -> torch.Tensor:
    output = model(**copy.deepcopy(dict(batch.inputs)))
    first = output if isinstance(output, torch.Tensor) else next(iter(output.values()))
    return first.float().square().mean().reshape(1)


def score(method: str) -> Callable[[Look, str, dict[str, Any]], Any]:
    def run(look: Look, path: str, inputs: dict[str, Any]) -> Any:
        return look.importance([Batch(inputs, [Item(0, {})])], method, row_losses=losses, orders=1)

    return run


def masked(look: Look, path: str, inputs: dict[str, Any]) -> Any:
    with torch.no_grad(), look.mask_heads({path: [0]}):
        look.model(**copy.deepcopy(inputs))


def with_gates(look: Look, path: str, inputs: dict[str, Any]) -> Any:
    with look.gates({path: torch.ones(look[path].heads, requires_grad=True)}):
        look.model(**copy.deepcopy(inputs))


def called_with(inputs: dict[str, Any], look: Look) -> Callable[[], Any]:
    return lambda: look.model(**copy.deepcopy(inputs))


DOORS: dict[str, Callable[[Look, str, dict[str, Any]], Any]] = {
    "mask_heads": masked,
    "gates": with_gates,
    "michel": score("michel"),
    "taylor": score("taylor"),
    "leave_one_out": score("leave_one_out"),
    "shapley": score("shapley"),
    "prune_heads": lambda look, path, inputs: look.prune_heads({path: [0]}, check=called_with(inputs, look)),
}
KEPT: dict[str, Callable[[Look, str], Any]] = {
    "keep_masked": lambda look, path: look.keep_masked({path: [0]}),
    "set_gates": lambda look, path: look.set_gates({path: [0.5] * look[path].heads}),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", MIXING)
def test_a_layer_that_mixes_its_attention_heads_is_refused_by_every_function(name: str, door: str) -> None:
    """By each function as the first that is called, and again: the second time before anything runs."""
    model, inputs = build.tiny(name)
    look = Look(model)
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            DOORS[door](look, MIXING[name], inputs)
        assert refused.value.reason == "not_a_head"
        assert "mask it instead" not in str(refused.value)
    assert not topwork.alterations(model)


@pytest.mark.parametrize("door", KEPT)
@pytest.mark.parametrize("name", MIXING)
def test_gates_that_stay_are_refused_too_and_the_table_says_why(name: str, door: str) -> None:
    model, inputs = build.tiny(name)
    look, path = Look(model), MIXING[name]
    line = next(line for line in look.table(called_with(inputs, look)) if line["path"] == path)
    assert (line["maskable"], line["prunable"]) == (False, "")
    assert "not the output of one attention head" in line["why"]
    with pytest.raises(Refused) as refused:
        KEPT[door](look, path)
    assert (refused.value.reason, refused.value.cause) == ("not_a_head", line["why"])


@pytest.mark.parametrize("door", KEPT)
def test_gates_that_stay_are_refused_on_a_model_that_never_ran(door: str) -> None:
    model, _ = build.tiny("bitnet")
    with pytest.raises(Refused) as refused:
        KEPT[door](Look(model), MIXING["bitnet"])
    assert refused.value.reason == "not_a_head"


@pytest.mark.parametrize("name", APART)
def test_attention_heads_that_stay_apart_are_masked(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    with torch.no_grad(), look.mask_heads({layer.path: [0] for layer in look.layers}):
        model(**copy.deepcopy(inputs))
    assert all(line["maskable"] for line in look.table(called_with(inputs, look)))


@pytest.mark.parametrize("name", ["bert", "llama", "bart", "vit", "wav2vec2", "gpt2"])
def test_a_mask_is_an_attention_head_that_gives_zeros_inside_the_attention_function(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An independent ablation: transformers' own sdpa function, with the attention head's output set to 0."""
    from transformers.modeling_utils import AttentionInterface

    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    layer = look.layers[1]
    module = model.get_submodule(layer.path)
    own = AttentionInterface._global_mapping["sdpa"]

    def without_head(attention: Any, *args: Any, **options: Any) -> Any:
        context, weights = own(attention, *args, **options)
        if attention in list(module.modules()):
            context = context.clone()
            context[:, :, 2] = 0
        return context, weights

    with torch.no_grad(), look.mask_heads({layer.path: [2]}):
        masked = lens_models.first_output(model, inputs)
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", without_head)
    with torch.no_grad():
        close(masked, lens_models.first_output(model, inputs))


def test_a_verification_leaves_no_trace_and_happens_once() -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    layer = look.layers[0]
    calls = []
    model.get_submodule(layer.path).register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    counts = []
    for _ in range(2):
        calls.clear()
        with torch.no_grad(), gated(model, {layer.path: (layer, factors_of(layer, [0]))}):
            model(**inputs)
        counts.append(len(calls))
    assert counts[0] > counts[1] == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
