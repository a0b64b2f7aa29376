"""The soft form of pruning: compact parameters scattered to full width, where a module's code cannot be cut."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lens_recipes
import pytest
import torch
from soft_models import (
    FUSED,
    MODELS,
    logits,
    make,
    rigid_model,
)
from tolerance import close

from topwork import Refused, alterations
from topwork_lens.look import Look
from topwork_lens.pruning import job as forms
from topwork_lens.pruning.rebuild import rebuild


@pytest.fixture
def uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the rows say is tried in the hard form, so that these models become soft."""
    monkeypatch.setattr(forms, "variants", lambda *_: iter(()))


@pytest.mark.usefixtures("uncut")
@pytest.mark.parametrize("name", list(MODELS))
def test_pruned_twice_saved_trained_and_generating(name: str) -> None:
    model, inputs = make(name)
    whole, look = copy.deepcopy(model), Look(model)
    plain = logits(model, inputs)
    first, second = {0: [1], 2: [0, 3]}, {0: [1, 2], 1: [3], 2: [0, 3]}
    size = sum(parameter.numel() for parameter in model.parameters())
    for heads in (first, second):
        with Look(whole).mask_heads(heads):
            masked = logits(whole, inputs)
        result = look.prune_heads(heads, check=inputs)
        close(masked, logits(model, inputs))
        assert (masked - plain).abs().max() > 1e-3 * plain.abs().max()
        forms = {line["number"]: (line["form"], bool(line["form_reason"])) for line in result.layers}
        assert all(forms[number] == ("soft", True) for number in heads)
        smaller = sum(parameter.numel() for parameter in model.parameters())
        assert result.parameters_after == smaller < result.parameters_before <= size
        assert [layer.removed for layer in look.layers] == [tuple(heads.get(number, ())) for number in range(3)]
    assert result.heads_after == 7

    # masks, gates and scores know what is gone
    with look.mask_heads({0: [0]}), Look(whole).mask_heads({**second, 0: [0, 1, 2]}):
        close(logits(whole, inputs), logits(model, inputs))
    scores = look.importance([{**inputs, "labels": inputs["input_ids"]}]).layers[0].scores
    assert [score is None for score in scores] == [False, True, True, False]

    fresh, _ = make(name)
    rebuild(fresh, copy.deepcopy(alterations(model)["lens"]))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits(model, inputs), logits(fresh, inputs))
    assert alterations(fresh) == alterations(model)
    assert torch.equal(logits(model, inputs), logits(copy.deepcopy(model), inputs))

    loss = fresh(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert all(parameter.grad is not None for name, parameter in fresh.named_parameters() if "parametrizations" in name)

    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    one = {key: value[:1, :6] for key, value in inputs.items()}
    assert torch.equal(model.generate(**one, **options), model.generate(**one, **options, use_cache=False))


@pytest.mark.usefixtures("uncut")
def test_all_attention_heads_of_a_layer() -> None:
    for name in MODELS:
        model, inputs = make(name)
        with Look(model).mask_heads({1: [0, 1, 2, 3]}):
            masked = logits(model, inputs)
        result = Look(model).prune_heads({1: [0, 1, 2, 3]}, check=inputs)
        close(masked, logits(model, inputs))
        assert result.layers[1]["kept"] == []


def test_only_what_nothing_else_depends_on_is_compact() -> None:
    """olmo2 normalises queries over all attention heads: rows of its queries cannot go, those of its values can."""
    model, inputs = make("olmo2")
    Look(model).prune_heads({0: [1]}, check=inputs)
    only = alterations(model)["lens"]["soft"]["model.layers.0.self_attn"]["only"]
    assert sorted(only) == ["o_proj.weight", "v_proj.weight"]


@pytest.mark.usefixtures("uncut")
@pytest.mark.parametrize("name", list(FUSED))
def test_the_layout_of_a_fused_projection_is_found(name: str) -> None:
    model, inputs = make(name)
    Look(model).prune_heads({0: [2], 1: [0, 1]}, check=inputs)
    for path, entry in alterations(model)["lens"]["soft"].items():
        assert entry["fused"] == FUSED[name]
        weight = model.get_submodule(f"{path}.{entry['fused']['path']}").parametrizations.weight.original
        # of 4 attention heads of width 8, one is gone in the first layer, a whole group in the second
        groups = FUSED[name]["groups"]
        gone = 8 if "0" in path else 8 * (2 + 2 * (groups == 2))
        assert weight.shape[0] == 8 * (4 + 2 * groups) - gone


def test_a_layer_described_as_soft_is_not_cut() -> None:
    model, x, look = rigid_model(mixed=False)
    with look.mask_heads({0: [0]}):
        masked = model(x)
    result = look.prune_heads({0: [0]}, check=lambda: model(x))
    close(model(x), masked)
    assert result.layers[0]["form_reason"] == "its sizes are written out"
    assert result.flops[0].total == result.flops[1].total
    assert result.json()["speed_limit"] == 1


def test_a_slice_that_is_not_one_attention_head_is_refused() -> None:
    """The values of the first attention head reach the second's slice of the context."""
    model, x, look = rigid_model(mixed=True)
    before, state = model(x), copy.deepcopy(model.state_dict())
    with pytest.raises(Refused) as refused:
        look.prune_heads({0: [0]}, check=lambda: model(x))
    assert refused.value.reason == "not_a_head"
    assert torch.equal(before, model(x))
    assert state.keys() == model.state_dict().keys()
    assert alterations(model) == {}


@pytest.mark.usefixtures("uncut")
def test_saved_and_loaded_and_trained_on_through_a_recipe(tmp_path: Path) -> None:
    import topwork

    recipe = lens_recipes.recipe(tmp_path, [])
    config = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    recipe["base"] = {"config": config}
    recipe["stages"] = [
        {"prune_heads": {"count": 3, "random": True}},
        {"train": {"steps": 2, "batch_size": 4}},
        {"prune_heads": {"count": 1, "random": True}},
        "save",
    ]
    done = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    found = done.results[2]["result"]
    assert found["heads_after"] == 4
    assert {line["form"] for line in found["layers"]} <= {"soft", "whole"}
    loaded = topwork.load(done.model_folder)
    batch = next(iter(done.loss_batches("evaluate")))
    with torch.no_grad():
        one, other = done.task.row_losses(done.model, batch), loaded.task.row_losses(loaded.model, batch)
    assert torch.equal(one, other)
    assert [layer.kept for layer in topwork.look(loaded.model).layers] == [
        layer.kept for layer in Look(done.model).layers
    ]
    assert not (done.model_folder / "model.safetensors").exists()
