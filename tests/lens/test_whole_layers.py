"""Whole layers are found by what runs, left out with the proof that a bypass gives the same, and saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lens_models import make
from tolerance import close

import topwork
from architectures import build
from topwork import CheckpointError, Refused, UsageError, alterations
from topwork_lens.blocks.whole.leaving_out import rebuild_whole
from topwork_lens.look import Look


def logits(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(**{key: value for key, value in inputs.items() if key != "labels"}).logits
    return output


@pytest.mark.parametrize(
    ("name", "path"), [("bert", "bert.encoder.layer"), ("gpt2", "transformer.h"), ("llama", "model.layers")]
)
def test_a_model_without_a_layer_is_the_model_in_which_it_is_bypassed(name: str, path: str) -> None:
    model, inputs = make(name)
    look = Look(model)
    assert [layer.path for layer in look.find_layers_whole(inputs)] == [f"{path}.{index}" for index in range(3)]
    # by hand: the list itself without the entry
    by_hand = copy.deepcopy(model)
    entries = by_hand.get_submodule(path)
    del entries[1]
    expected = logits(by_hand, inputs)
    with look.bypass_layers([1], check=inputs):
        close(logits(model, inputs), expected)
    result = look.prune(layers=[1], check=inputs)
    close(logits(model, inputs), expected)
    assert result.left_out == [f"{path}.1"] and result.check.proves
    assert result.parameters_after < result.parameters_before
    # again, by its original number
    assert [layer.index for layer in look.find_layers_whole(inputs)] == [0, 2]
    look.prune(layers=[2], check=inputs)
    assert [layer.path for layer in look.find_layers_whole(inputs)] == [] or len(model.get_submodule(path)) == 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_p6_tokens_are_the_same_with_a_cache(name: str) -> None:
    model, inputs = make(name)
    ids = inputs["input_ids"][:2, :5]
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "use_cache": True}
    mask = torch.ones_like(ids)
    look = Look(model)
    with look.bypass_layers([0], check=inputs):
        expected = model.generate(ids, attention_mask=mask, **options)
    look.prune(layers=[0], check=inputs)
    assert [layer.self_attn.layer_idx if name == "llama" else layer.attn.layer_idx for layer in layers_of(model)] == [
        0,
        1,
    ]
    tokens = model.generate(ids, attention_mask=mask, **options)
    without = model.generate(ids, attention_mask=mask, **{**options, "use_cache": False})
    assert torch.equal(tokens, expected) and torch.equal(tokens, without)


def layers_of(model: Any) -> Any:
    return model.model.layers if hasattr(model, "model") else model.transformer.h


def test_p6_a_layer_that_changes_nothing_has_no_influence_and_goes_for_nothing() -> None:
    model, inputs = make("gpt2")
    layer = model.transformer.h[1]
    with torch.no_grad():
        for projection in (layer.attn.c_proj, layer.mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    look = Look(model)
    influence = look.block_influence([inputs])
    assert influence["transformer.h.1"] == pytest.approx(0, abs=1e-6)
    assert min(influence, key=lambda path: influence[path]) == "transformer.h.1"
    before = logits(model, inputs)
    look.prune(layers=[1], check=inputs)
    close(logits(model, inputs), before)


def test_layers_that_must_stay_say_why() -> None:
    reasons = {}
    for name in ("t5", "segformer", "gemma2"):
        model, inputs = build.tiny(name)
        look = Look(model)
        present = look.find_layers_whole(lambda model=model, inputs=inputs: model(**copy.deepcopy(inputs)))
        reasons[name] = {layer.path: layer.why for layer in present}
        stays = next(layer for layer in present if layer.why)
        with pytest.raises(Refused, match=stays.why.split("`")[0].split("(")[0]) as caught:
            look.prune(layers=[stays.path], check=lambda model=model, inputs=inputs: model(**copy.deepcopy(inputs)))
        assert caught.value.place == stays.path
    assert "relative_attention_bias" in reasons["t5"]["encoder.block.0"] and not reasons["t5"]["encoder.block.1"]
    assert "shape" in reasons["segformer"]["stages.0"] and not reasons["segformer"]["stages.0.blocks.1"]
    assert "alternate" in reasons["gemma2"]["layers.0"] and not reasons["gemma2"]["layers.1"]  # nothing comes behind


@pytest.mark.parametrize("name", ["ernie4_5_moe", "deepseek_v32"])
def test_a_layer_with_parameters_that_no_other_has_goes_where_nothing_needs_them(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    present = look.find_layers_whole(inputs)
    names = [{name for name, _ in entry.named_parameters()} for entry in model.layers]
    assert names[0] - names[1]  # a plain network in the first layer, experts in the others
    assert [layer.why for layer in present] == ["", ""]
    by_hand = copy.deepcopy(model)
    del by_hand.layers[0]
    for layer in by_hand.layers:
        layer.self_attn.layer_idx = 0
    look.prune(layers=[0], check=inputs)
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], by_hand(**inputs)[0])


def test_a_layer_whose_states_are_read_by_index_is_refused_and_nothing_changes() -> None:
    from transformers import BeitBackbone, BeitConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    model = BeitBackbone(
        BeitConfig(**sizes, image_size=32, patch_size=8, out_indices=[1, 3], initializer_range=0.3)
    ).eval()
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32)}
    with torch.no_grad():
        before = model(**inputs).feature_maps
    look = Look(model)
    path = next(layer.path for layer in look.find_layers_whole(inputs) if layer.index == 0)
    with pytest.raises(Refused):
        look.prune(layers=[path], check=inputs)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(**inputs).feature_maps, before, strict=True))
    assert "lens" not in alterations(model)


def test_heads_neurons_and_layers_go_together_and_are_saved(tmp_path: Any) -> None:
    model, inputs = make("bert")
    expected, _ = make("bert")
    with torch.no_grad():
        del expected.bert.encoder.layer[0]
        expected.bert.encoder.layer[1].output.dense.weight[:, [1, 4]] = 0
        expected.bert.encoder.layer[0].attention.output.dense.weight[:, 8:16] = 0
    heads = {0: [2], 1: [1]}
    neurons = {"bert.encoder.layer.2.output.dense": [1, 4]}
    result = topwork.prune(model, heads=heads, neurons=neurons, layers=[0], check=inputs)
    close(logits(model, inputs), logits(expected, inputs))
    assert result.removed == {"bert.encoder.layer.0.attention": [1]}
    topwork.save_pretrained(model, tmp_path / "model")
    loaded = topwork.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    assert [layer.index for layer in topwork.look(loaded).find_layers_whole(inputs)] == [1, 2]


def test_what_is_refused_later_puts_layers_back() -> None:
    model, inputs = make("bert")
    before = logits(model, inputs)
    model.bert.embeddings.shared = torch.nn.Linear(48, 32)
    model.bert.embeddings.shared.weight = model.bert.encoder.layer[2].output.dense.weight
    with pytest.raises(Refused, match="also those of"):
        topwork.prune(model, neurons={"bert.encoder.layer.2.output.dense": [0]}, layers=[0], check=inputs)
    assert len(model.bert.encoder.layer) == 3 and torch.equal(logits(model, inputs), before)


def test_wrong_keys_and_manifests_are_errors() -> None:
    model, inputs = make("bert")
    with pytest.raises(UsageError, match="whole layer"):
        topwork.prune(model, layers=[7], check=inputs)
    with pytest.raises(CheckpointError, match="left"):
        rebuild_whole(model, {"left_out": {"bert.encoder.layer": {"count": 3, "kept": [5]}}})
    with pytest.raises(CheckpointError, match="does not fit"):
        rebuild_whole(model, {"left_out": {"nowhere": {"count": 3, "kept": [1]}}})
