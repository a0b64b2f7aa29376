"""Shapley values and the ablation tables: their identities, and the stages that write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lens_models
import pytest
import torch
from lens_recipes import run
from tolerance import about

from topwork import Batch, Item, Refused, UsageError
from topwork_lens.look import Look
from topwork_lens.scoring.ablation import ablate, summary
from topwork_lens.scoring.shapley import Shapley

make = lens_models.make


def losses(model: Any, batch: Batch) -> torch.Tensor:
    inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
    logits, labels = model(**inputs).logits, batch.inputs["labels"]
    found = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return found.view(len(labels), -1).mean(1)


def batch_of(batch: dict[str, torch.Tensor], rows: range = range(4)) -> Batch:
    return Batch({key: value[list(rows)] for key, value in batch.items()}, [Item(row, {}) for row in rows])


def mean_loss(model: Any, batch: Batch) -> float:
    with torch.no_grad():
        return float(losses(model, batch).double().mean())


@pytest.mark.parametrize("name", ["bert", "vit", "wav2vec2", "bart"])
def test_p2_shapley_values_add_up(name: str) -> None:
    """Efficiency, on text, vision, audio and seq2seq: the sum is the loss with none minus the loss with all."""
    model, raw = make(name, torch.float64)
    raw = {key: value.clamp(min=0) if key == "labels" else value for key, value in raw.items()}
    batch, look = batch_of(raw), Look(model)
    found = look.importance([batch], "shapley", row_losses=losses, normalise="none", orders=2)
    total = sum(score for layer in found.layers for score in layer.scores if score is not None)
    with look.mask_heads({layer.path: list(range(layer.heads)) for layer in look.layers}):
        nothing = mean_loss(model, batch)
    assert total == about(nothing - mean_loss(model, batch))


def small(dead: bool = False) -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import BertConfig, BertForSequenceClassification

    _, raw = make("bert")
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=24, vocab_size=50, num_labels=3, initializer_range=0.4)
    model = BertForSequenceClassification(config).double().eval()
    if dead:
        with torch.no_grad():
            model.bert.encoder.layer[0].attention.output.dense.weight[:, 8:] = 0
    return model, raw


def test_p2_few_attention_heads_are_exact_and_a_dead_one_is_worth_nothing() -> None:
    model, raw = small(dead=True)
    batch, look = batch_of(raw), Look(model)
    found = look.importance([batch], "shapley", row_losses=losses, normalise="none").layers
    assert found[0].scores[1] == about(0)
    assert abs(found[0].scores[0] or 0) > 1e-4
    # all orders, by hand
    from itertools import permutations

    heads = [(layer, number) for layer in (0, 1) for number in (0, 1)]
    expected = dict.fromkeys(heads, 0.0)
    for order in permutations(heads):
        before = mean_loss(model, batch)
        for place, head in enumerate(order):
            gone: dict[int, list[int]] = {}
            for layer, number in order[: place + 1]:
                gone.setdefault(layer, []).append(number)
            with look.mask_heads(gone):
                after = mean_loss(model, batch)
            expected[head] += (after - before) / 24
            before = after
    for layer, number in heads:
        assert found[layer].scores[number] == about(expected[layer, number])


def test_sampled_values_come_close_to_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, raw = small()
    batch, layers = batch_of(raw), Look(model).layers
    exact = torch.cat(list(Shapley(model, layers, losses).batch(batch).values()))
    monkeypatch.setattr("topwork_lens.scoring.shapley.EXACT", 0)
    sampled = torch.cat(list(Shapley(model, layers, losses, orders=60).batch(batch).values()))
    assert (sampled - exact).abs().max() < 0.2 * exact.abs().max()


@pytest.mark.parametrize("name", ["bert", "vit", "wav2vec2", "bart"])
def test_m8_masked_is_the_same_as_zeros_in_the_output_projection(name: str) -> None:
    model, raw = make(name, torch.float64)
    raw = {key: value.clamp(min=0) if key == "labels" else value for key, value in raw.items()}
    batch, look = batch_of(raw), Look(model)
    layer = look.layers[1]
    table = ablate(model, [layer], lambda: mean_loss(model, batch))
    weight = model.get_submodule(f"{layer.path}.{layer.output}").weight
    whole = weight.detach().clone()
    for row, gone in (("one_removed", lambda head: [head]), ("all_but_one", lambda head: {0, 1, 2, 3} - {head})):
        for head in range(4):
            with torch.no_grad():
                for number in gone(head):
                    weight[:, number * layer.width : (number + 1) * layer.width] = 0
            expected = mean_loss(model, batch) - table["metric"]
            with torch.no_grad():
                weight.copy_(whole)
            assert table["layers"][0][row][head] == about(expected)


def test_the_summary_counts() -> None:
    layers = [
        {"one_removed": [0.0, -0.5, 0.1, None], "all_but_one": [-0.4, -0.2, 0.0, None]},
        {"one_removed": [-0.001, -0.3], "all_but_one": [-0.3, -0.3]},
    ]
    found = summary({"metric": 0.9, "layers": layers}, True)
    assert (found["heads"], found["removable_alone"], found["layers_fine_with_one"]) == (5, 3, 1)
    assert (found["worst"], found["best"]) == (-0.5, 0.1)
    turned = summary({"metric": 0.9, "layers": layers}, False)
    assert (turned["worst"], turned["removable_alone"]) == (-0.1, 4)


def test_m10_three_groups_can_be_scored_and_chosen_apart() -> None:
    model, raw = make("bart")
    look = Look(model)
    everything = look.importance([raw], normalise="none")
    groups = {layer.group for layer in everything.layers}
    assert groups == {"encoder", "decoder", "cross"}
    cross = look.importance([raw], normalise="none", groups=["cross"])
    for one, other in zip(cross.layers, everything.layers, strict=True):
        if one.group == "cross":
            assert one.scores == about(other.scores)
        else:
            assert set(one.scores) == {None}
    from topwork_lens.scoring.selection import Choice, choose

    chosen = choose(look.layers, Choice(share=0.5, groups=("cross",)), cross)
    assert all("encoder_attn" in path for path in chosen)
    with pytest.raises(UsageError, match="unknown group"):
        look.importance([raw], groups=["backbone"])


def test_what_a_loss_draws_depends_on_the_row_alone() -> None:
    model, raw = make("bert")

    def drawn(model: Any, batch: Batch) -> torch.Tensor:
        return losses(model, batch) * torch.rand(batch.row_count)

    look = Look(model)
    options: dict[str, Any] = {"row_losses": drawn, "normalise": "none"}
    one, other = (
        look.importance([batch_of(raw, range(row, row + 1)) for row in order], **options)
        for order in ([0, 1, 2, 3], [3, 1, 0, 2])
    )
    for first, second in zip(one.layers, other.layers, strict=True):
        assert first.scores == about(second.scores)
    with pytest.raises(Refused, match="one row at a time") as refused:
        look.importance([batch_of(raw)], **options)
    assert refused.value.reason == "batch_coupled"


def test_the_stages(tmp_path: Path) -> None:
    stages = [
        {"head_importance": {"method": "shapley", "orders": 1, "rows": 4}},
        {"head_ablation": {"limit": 4}},
        {"prune_heads": {"layers": [1]}},
        {"head_ablation": {"tables": ["one_removed"], "role": "calibrate"}},
    ]
    done = run(tmp_path, stages)
    scored, tables, pruned, after = (record["result"] for record in done.results)
    assert all(score is not None for layer in scored["layers"] for score in layer["scores"])
    assert [len(layer["one_removed"]) for layer in tables["layers"]] == [4, 4]
    assert tables["heads"] == 8
    assert pruned["layers"][1]["kept"] == []
    assert after["heads"] == 4
    assert after["layers"][1]["one_removed"] == [None] * 4
