"""Pruning, masking and rebuilding, on one model of every way of building attention."""

from __future__ import annotations

import copy
from typing import Any

import lens_models
import pytest
import torch

import topwork
from topwork import Refused, UsageError, alterations
from topwork_lens.look import Look
from topwork_lens.pruning.rebuild import rebuild
from topwork_lens.refusals import REASONS

make, without_labels, first_output = lens_models.make, lens_models.without_labels, lens_models.first_output
NAMES = list(lens_models.ALL)
NEVER_EMPTY = ("gpt2", "deberta_v2")


def some_heads(look: Look) -> dict[str, list[int]]:
    """Different attention heads in every layer, and in some layers none."""
    choice = ([0, 2], [1], [])
    return {layer.path: [n for n in choice[i % 3] if n < layer.heads] for i, layer in enumerate(look.layers)}


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert (one - other).abs().max() <= tolerance * one.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_masked_equals_pruned_and_prunes_again_by_original_numbers(name: str) -> None:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    whole, plain = copy.deepcopy(model), first_output(model, inputs)
    look, reference = Look(model), Look(whole)
    first = some_heads(look)
    with reference.mask_heads(first):
        masked = first_output(whole, inputs)
    result = look.prune_heads(first, check=inputs)
    close(masked, first_output(model, inputs))
    assert (masked - plain).abs().max() > 1e-3 * plain.abs().max()
    assert result.check is not None
    assert result.check.proves
    assert result.heads_before - result.heads_after == sum(map(len, first.values()))
    assert result.parameters_after == sum(parameter.numel() for parameter in model.parameters())
    assert result.parameters_after < result.parameters_before

    second = {layer.path: [layer.heads - 1] for layer in look.layers}
    both = {path: sorted({*first[path], *second[path]}) for path in first}
    with reference.mask_heads(both):
        masked = first_output(whole, inputs)
    again = look.prune_heads(both, check=inputs)
    close(masked, first_output(model, inputs))
    assert all(not set(numbers) & set(first[path]) for path, numbers in again.removed.items())
    for layer in look.layers:
        assert layer.removed == tuple(both[layer.path])


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_model_gets_the_same_shape_and_the_same_numbers(name: str) -> None:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    look = Look(model)
    look.prune_heads(some_heads(look), check=inputs)
    layer = look.layers[-1]
    look.keep_masked({layer.path: [layer.kept[0]]})
    expected = first_output(model, inputs)
    section = copy.deepcopy(alterations(model)["lens"])

    fresh, _ = make(name)
    torch.manual_seed(7)
    for parameter in fresh.parameters():
        torch.nn.init.normal_(parameter)
    rebuild(fresh, section)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(expected, first_output(fresh, inputs))
    assert alterations(fresh)["lens"] == section
    assert torch.equal(expected, first_output(copy.deepcopy(fresh), inputs))


@pytest.mark.parametrize("name", NAMES)
def test_all_attention_heads_of_a_layer_can_go(name: str) -> None:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    whole, look = copy.deepcopy(model), Look(model)
    for index in (0, -1):
        layer = look.layers[index]
        everything = {layer.path: list(range(layer.heads))}
        with Look(whole).mask_heads(everything):
            masked = first_output(whole, inputs)
        look.prune_heads(everything, check=inputs)
        close(masked, first_output(model, inputs))
        assert look.layers[index].kept == ()
        assert look.table()[index]["form"] == ("hard and soft" if name in NEVER_EMPTY else "hard")
        whole = copy.deepcopy(model)


def wrong_index(monkeypatch: pytest.MonkeyPatch, *modules: Any, after: int = 8) -> None:
    """From the ninth parameter on, cut the wrong positions."""
    right, calls = modules[0].index_of, []

    def shifted(*args: Any) -> list[int]:
        calls.append(1)
        found = right(*args)
        others = sorted(set(range(args[-1])) - set(found))
        return sorted(found[1:] + others[:1]) if len(calls) > after else found

    for module in modules:
        monkeypatch.setattr(module, "index_of", shifted)


@pytest.mark.parametrize("name", ["llama", "t5", "swin", "bert", "gpt2"])
def test_a_wrong_cut_is_found_and_put_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from topwork_lens.pruning import slicing, soft

    model, batch = make(name)
    inputs = without_labels(batch, model)
    before, state = first_output(model, inputs), copy.deepcopy(model.state_dict())
    wrong_index(monkeypatch, slicing, soft)
    look = Look(model)
    with pytest.raises(Refused) as refused:
        look.prune_heads({layer.path: [0] for layer in look.layers}, check=inputs)
    assert refused.value.reason == "check_failed"
    assert torch.equal(before, first_output(model, inputs))
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert alterations(model) == {}
    assert all(layer.removed == () for layer in look.layers)


def test_where_cutting_fails_the_soft_form_is_taken_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from topwork_lens.pruning import slicing

    model, batch = make("bert")
    inputs = without_labels(batch, model)
    wrong_index(monkeypatch, slicing)
    look = Look(model)
    with look.mask_heads({0: [0], 1: [1]}):
        masked = first_output(model, inputs)
    result = look.prune_heads({0: [0], 1: [1]}, check=inputs)
    close(masked, first_output(model, inputs))
    assert [line["form"] for line in result.layers] == ["hard", "soft", "whole"]
    assert "masked and pruned differ" in result.layers[1]["form_reason"]


def test_grouped_queries_share_while_they_can() -> None:
    model, batch = make("llama")
    inputs = without_labels(batch, model)
    attention = model.model.layers[0].self_attn
    look = Look(model)
    look.prune_heads({0: [0, 2]}, check=inputs)
    assert (attention.q_proj.out_features, attention.k_proj.out_features) == (16, 16)
    assert attention.num_key_value_groups == 1
    look.prune_heads({1: [0, 1]}, check=inputs)
    second = model.model.layers[1].self_attn
    assert (second.q_proj.out_features, second.k_proj.out_features, second.num_key_value_groups) == (16, 8, 2)
    look.prune_heads({2: [3]}, check=inputs)
    third = model.model.layers[2].self_attn
    assert (third.q_proj.out_features, third.k_proj.out_features, third.num_key_value_groups) == (24, 24, 1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart", "t5", "gpt_neox"])
def test_a_pruned_model_generates_with_a_cache_what_it_generates_without(name: str) -> None:
    model, batch = make(name)
    inputs = {key: value[:1] for key, value in batch.items() if key != "labels"}
    look = Look(model)
    whole = copy.deepcopy(model)
    look.prune_heads(some_heads(look))
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "min_new_tokens": 6, "pad_token_id": 0}
    with_cache = model.generate(**inputs, **options, use_cache=True)
    assert torch.equal(with_cache, model.generate(**inputs, **options, use_cache=False))
    with Look(whole).mask_heads(some_heads(Look(whole))):
        assert torch.equal(with_cache, whole.generate(**inputs, **options))


def test_the_one_line_replacements_of_version_4() -> None:
    model, batch = make("bert")
    inputs = without_labels(batch, model)
    plain = first_output(model, inputs)
    config = model.config.to_dict()
    with topwork.mask_heads(model, {0: [1, 3]}):
        masked = first_output(model, inputs)
    assert torch.equal(plain, first_output(model, inputs))
    topwork.prune_heads(model, {0: [1, 3]})
    close(masked, first_output(model, inputs))
    assert model.bert.encoder.layer[0].attention.self.query.out_features == 16
    assert model.config.to_dict() == config


def test_a_pruned_model_trains_on() -> None:
    model, batch = make("bert")
    topwork.prune_heads(model, {0: [1, 3], 2: [0]})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        loss = model(**batch).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.bert.encoder.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_kept_gates_stay_through_pruning_and_training_goes_through_them() -> None:
    model, batch = make("bert")
    inputs = without_labels(batch, model)
    look = Look(model)
    look.set_gates({1: [1.0, 0.5, 2.0, 0.0]})
    gated = first_output(model, inputs)
    look.prune_heads({1: [3]}, check=inputs)
    close(gated, first_output(model, inputs))
    with look.mask_heads({1: [0]}):
        masked = first_output(model, inputs)
    look.prune_heads({1: [0]}, check=inputs)
    close(masked, first_output(model, inputs))
    assert alterations(model)["lens"]["gates"] == {look[1].path: [1.0, 0.5, 2.0, 0.0]}


def test_a_shared_module_is_named_once() -> None:
    model, _ = make("albert")
    layers = Look(model).layers
    assert len(layers) == 1
    bert, _ = make("bert")
    bert.bert.encoder.layer[2] = bert.bert.encoder.layer[0]
    layers = Look(bert).layers
    assert len(layers) == 2
    assert layers[0].callers == ("bert.encoder.layer.0.attention", "bert.encoder.layer.2.attention")


def test_a_parameter_of_two_modules_is_not_cut() -> None:
    model, _ = make("bert")
    one, two = (model.bert.encoder.layer[i].attention.self for i in (0, 1))
    two.query.weight = one.query.weight
    with pytest.raises(Refused) as refused:
        Look(model).prune_heads({0: [1]})
    assert refused.value.reason == "shared_parameter"


def test_a_norm_over_all_attention_heads_is_refused() -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=48, scale_attn_norm=True).eval()
    with pytest.raises(Refused) as refused:
        Look(model).prune_heads({0: [1]})
    assert refused.value.reason == "not_a_head"


def test_a_gate_that_nothing_passes_is_refused() -> None:
    model, batch = make("bert")
    attention = model.bert.encoder.layer[1].attention
    dense = attention.output.dense
    attention.output.forward = lambda hidden, states: attention.output.LayerNorm(
        torch.nn.functional.linear(hidden, dense.weight, dense.bias) + states
    )
    with pytest.raises(Refused) as refused, Look(model).mask_heads({1: [0]}):
        model(**without_labels(batch, model))
    assert refused.value.reason == "not_run"
    assert refused.value.reason in REASONS


def test_what_is_asked_for_must_exist() -> None:
    model, _ = make("bert")
    look = Look(model)
    with pytest.raises(UsageError, match="no attention head 4"):
        look.prune_heads({0: [4]})
    with pytest.raises(UsageError, match="unknown attention layer"):
        look.prune_heads({3: [0]})
    with pytest.raises(UsageError, match="named twice"):
        look.prune_heads({0: [0], "encoder.0": [1]})
    seq2seq, _ = make("bart")
    with pytest.raises(UsageError, match="ambiguous"):
        Look(seq2seq).prune_heads({0: [0]})
    with pytest.raises(UsageError, match="no attention layer"):
        Look(torch.nn.Linear(2, 2)).prune_heads({0: [0]})


def test_a_check_that_proves_nothing_says_so() -> None:
    model, batch = make("bert")
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight.zero_()
    result = Look(model).prune_heads({0: [1]}, check=without_labels(batch, model))
    assert result.check is not None
    assert not result.check.proves
    assert result.json()["check"]["proves"] is False


def test_a_model_that_puts_out_no_numbers_is_said_to_be_at_fault() -> None:
    model, batch = make("bert")
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.bias[0] = float("nan")
    with pytest.raises(Refused, match=r"as it is puts out values that are no numbers .*give a batch"):
        Look(model).prune_heads({0: [1]}, check=without_labels(batch, model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    for name in ("bert", "vit"):
        model, batch = make(name, dtype)
        result = Look(model).prune_heads({0: [1], 2: [0, 3]}, check=without_labels(batch, model))
        assert result.check is not None


def test_many_groups_are_numbered_apart() -> None:
    model, _ = make("t5")
    look = Look(model)
    assert look["cross", 1].path == "decoder.block.1.layer.1.EncDecAttention"
    assert look["decoder.0"].path == "decoder.block.0.layer.0.SelfAttention"
    assert look["encoder", 1].kind == "self"
    assert {(line["group"], line["number"]) for line in look.table()} == {
        (group, number) for group in ("encoder", "decoder", "cross") for number in (0, 1)
    }


def test_attention_that_nobody_describes_is_refused() -> None:
    """Otherwise the numbers of the layers would be wrong, and a layer would be left out without a word."""
    from types import SimpleNamespace

    from topwork_lens.layers.description import describe

    def all_but_one(path: str, module: torch.nn.Module, model: torch.nn.Module) -> Any:
        return None if "layer.1" in path else describe(path, module, model)

    model, batch = make("bert")
    inputs = without_labels(batch, model)
    look = Look(model, SimpleNamespace(hook=SimpleNamespace(attention_layer=all_but_one)))
    assert len(look.layers) == 2

    def capture() -> None:
        with torch.no_grad(), look.capture("entropy"):
            model(**inputs)

    before = first_output(model, inputs)
    for attempt in (lambda: look.prune_heads({0: [1]}), capture, lambda: look.importance([batch])):
        with pytest.raises(Refused) as refused:
            attempt()
        assert refused.value.reason == "unknown_layout"
        assert refused.value.place == "bert.encoder.layer.1.attention.self"
    assert torch.equal(before, first_output(model, inputs))


def test_a_random_batch_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make("bert")
    model.config.vocab_size = 5000
    assert Look(copy.deepcopy(model)).prune_heads({0: [1]}).check.proves, "the library's own dummy inputs fit"
    monkeypatch.setattr(type(model), "dummy_inputs", {"input_ids": torch.tensor([[4999]])})
    with pytest.raises(Refused, match="check=batch") as refused:
        Look(model).prune_heads({0: [1]})
    assert refused.value.reason == "check_failed"
    Look(model).prune_heads({0: [1]}, check=without_labels(batch, model))


def test_outputs_that_are_dataclasses_are_compared() -> None:
    from topwork import Features
    from topwork_lens.pruning.equivalence import tensors

    tokens = torch.ones(1, 2, 3)
    found = tensors({"features": Features(tokens=tokens, maps=[tokens * 2]), "attentions": [tokens]})
    assert [float(tensor.detach().mean()) for tensor in found] == [1.0, 2.0]
