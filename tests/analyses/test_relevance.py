"""Relevance: checks V1 to V4 of the literature, faithfulness, the stage on text, images, sound and two stacks."""

from __future__ import annotations

import copy
import json
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from detector_configs import DEFORMABLE, RT_DETR
from lens_recipes import RANGE, SIZES, TEXTS
from tiny_bases import BART, WAV2VEC2, YOLOS

import topwork
from topwork import Refused
from topwork_analyses.relevance.chefer import averaged, normalised, relevance_maps
from topwork_analyses.relevance.faithfulness import deletion_curve, deletion_gain
from topwork_analyses.relevance.methods import METHODS, relevance_of_row
from topwork_analyses.relevance.norms import norm_attention, transformed_values
from topwork_analyses.relevance.rollout import flow, rollout, with_residual
from topwork_analyses.relevance.study import RelevanceStudy, shuffled
from topwork_lens.look import Look

LONGFORMER = {"config": {"model_type": "longformer", **SIZES, "attention_window": 4}}
#: two layers of attention, each behind one of a state space
HYBRID = {
    "config": {
        "model_type": "jamba",
        **SIZES,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 1,
        "mamba_d_state": 4,
    }
}


def attentions(layers: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, size, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(layers)]


def test_v1_rollout_is_a_product_whose_rows_sum_to_one():
    layers = attentions(4, 6)
    result = rollout(layers)
    wanted = torch.eye(6, dtype=torch.float64)
    for layer in layers:
        wanted = (0.5 * layer + 0.5 * torch.eye(6, dtype=torch.float64)) @ wanted
    torch.testing.assert_close(result, wanted, atol=1e-15, rtol=0)
    torch.testing.assert_close(result.sum(-1), torch.ones(6, dtype=torch.float64), atol=1e-6, rtol=0)


def test_v1_identity_stays_the_identity_and_uniform_attention_has_its_closed_form():
    eye, uniform = torch.eye(5, dtype=torch.float64), torch.full((5, 5), 0.2, dtype=torch.float64)
    torch.testing.assert_close(rollout([eye] * 3), eye)
    # (I + U) / 2 to the power of L, with U U = U: half to the L of the identity, the rest uniform
    torch.testing.assert_close(rollout([uniform] * 3), eye / 8 + uniform * (1 - 1 / 8))


def test_v2_norms_are_of_an_exact_decomposition_of_the_attention_output():
    for config in (
        {"model_type": "bert", **SIZES, **RANGE},
        {"model_type": "llama", **SIZES, **RANGE, "num_key_value_heads": 2},
        {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    ):
        task = "fill-mask" if config["model_type"] == "bert" else "text-generation"
        work = topwork.build(task, {"config": config}, rows=TEXTS)
        work.model.eval()
        look = Look(work.model)
        batch = work.task.collate(work.task.encode(TEXTS[:1], "loss", 0), "loss")
        with torch.no_grad(), look.capture("weights", "value", "attention_output", layers=0) as seen:
            work.task.row_losses(work.model, batch)
        layer = look.layers[0]
        weights, transformed = seen["weights", 0], transformed_values(work.model, layer, seen["value", 0])
        given = torch.einsum("bhqk,bhkd->bqd", weights, transformed)
        output = seen["attention_output", 0]
        bias = (output - given).mean((0, 1))
        torch.testing.assert_close(given + bias, output, atol=1e-5, rtol=0)
        by_head, together = norm_attention(weights, transformed)
        assert by_head.shape == weights.shape and together.shape == weights.shape[:1] + weights.shape[2:]
        wanted = (weights[0, :, 1, 2, None] * transformed[0, :, 2]).sum(0).norm()
        torch.testing.assert_close(together[0, 1, 2], wanted)


def test_v3_relevance_is_not_negative_and_without_gradient_the_identity():
    weights = torch.stack(attentions(3, 5))[None].transpose(0, 1)
    gradients = torch.randn(weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps = relevance_maps([("encoder", averaged(layer, grad)) for layer, grad in zip(weights, gradients)])
    assert maps.encoder is not None and bool((maps.encoder >= 0).all())
    assert bool((maps.encoder.diagonal() >= 1).all())
    nothing = relevance_maps([("encoder", averaged(layer, torch.zeros_like(layer))) for layer in weights])
    assert nothing.encoder is not None
    torch.testing.assert_close(nothing.encoder, torch.eye(5, dtype=torch.float64))
    rows = normalised(maps.encoder) - torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(rows.sum(-1), torch.ones(5, dtype=torch.float64))


def test_v3_rules_of_two_stacks_are_those_of_the_authors_written_out():
    generator = torch.Generator().manual_seed(0)

    def drawn(rows: int, columns: int) -> torch.Tensor:
        return torch.rand(rows, columns, generator=generator, dtype=torch.float64)

    encoder, inner, cross, inner_again, cross_again = drawn(4, 4), drawn(3, 3), drawn(3, 4), drawn(3, 3), drawn(3, 4)
    kinds: list[Any] = [("encoder", encoder), ("decoder", inner), ("cross", cross)]
    maps = relevance_maps([*kinds, ("decoder", inner_again), ("cross", cross_again)])
    r_ii = torch.eye(4, dtype=torch.float64) + encoder
    r_qq = torch.eye(3, dtype=torch.float64) + inner
    r_qi = normalised(r_qq).T @ cross @ normalised(r_ii)
    r_qi = r_qi + inner_again @ r_qi
    r_qq = r_qq + inner_again @ r_qq
    r_qi = r_qi + normalised(r_qq).T @ cross_again @ normalised(r_ii)
    assert maps.cross is not None
    torch.testing.assert_close(maps.cross, r_qi)


def explained(work: Any, batch: topwork.Batch) -> torch.Tensor:
    return -work.task.row_losses(work.model, batch).sum()


def test_v3_the_only_token_that_decides_is_the_most_relevant(tmp_path):
    """A model that has learned to tell texts by one word: the word is first in at least 95 % of the rows."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(160):
        words = list(random.choice(["one", "two", "six", "ten"], size=6))
        words[int(random.integers(6))] = ("good", "bad")[index % 2]
        rows.append({"text": " ".join(words), "label": ("yes", "no")[index % 2]})
    base = {"config": {"model_type": "bert", **SIZES, "hidden_dropout_prob": 0.0}}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "task": "text-classification",
        "base": base,
        "data": {"train": {"path": str(file)}, "evaluate": {"path": str(file)}},
        "stages": [{"train": {"steps": 60, "batch_size": 32, "learning_rate": 3e-3, "checkpoint_every": "never"}}],
    }
    done = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    done.model.eval()
    look = Look(done.model)
    study = RelevanceStudy(done.task, done.model, None, 5, 3, 0, randomise=True)
    hits = dict.fromkeys(METHODS, 0)
    for row in rows[:40]:
        batch = done.task.collate(done.task.encode([row], "loss", 0), "loss")
        units = done.task.units(batch.items[0])
        relevance = study.add(batch, list(units.special)) if row in rows[:10] else None
        if relevance is None:
            relevance = relevance_of_row(
                look, lambda batch=batch: -done.task.row_losses(done.model, batch).sum()
            ).methods
        for name, values in relevance.items():
            values = values.clone()
            values[list(units.special)] = -1
            hits[name] += units.names[int(values.argmax())].strip() in ("good", "bad")
    assert hits["chefer"] >= 38, hits
    lines = {line["method"]: line for line in study.summary(0.95, 200, 0)}
    assert lines["chefer"]["above_random_low"] > 0, "deleting what is relevant first costs more than chance"
    assert abs(lines["chefer"]["correlation_random_weights"]) < 0.5


def test_v4_flow_of_three_positions_in_two_layers_is_that_of_networkx_and_below_every_cut():
    layers = attentions(2, 3)
    result = flow(layers)
    graph = networkx.DiGraph()
    for depth, layer in enumerate(with_residual(each) for each in layers):
        for row in range(3):
            for column in range(3):
                graph.add_edge((depth + 1, row), (depth, column), capacity=float(layer[row, column]))
    for row in range(3):
        wanted = torch.tensor([networkx.maximum_flow_value(graph, (2, row), (0, column)) for column in range(3)])
        torch.testing.assert_close(result[row], (wanted / wanted.sum()).double(), atol=1e-6, rtol=0)
        into = with_residual(layers[0]).sum(0)
        assert bool((wanted <= into + 1e-9).all()), "no more arrives than the last edges carry"


def test_deleting_positions_one_by_one_ends_with_all_of_them_deleted():
    work = topwork.build("text-classification", {"config": {"model_type": "bert", **SIZES, **RANGE}}, rows=TEXTS)
    work.model.eval()
    batch = work.task.collate(work.task.encode(TEXTS[:1], "loss", 0), "loss")

    def measure() -> float:
        with torch.no_grad():
            return float(work.model(**batch.inputs).logits[0, 0])

    look = Look(work.model)
    stack = "bert.encoder.layer"
    curve = deletion_curve(look, stack, [1, 2, 3, 4], measure, 4)
    again = deletion_curve(look, stack, [4, 3, 2, 1], measure, 4)
    assert len(curve) == 5 and curve[0] == again[0] == pytest.approx(measure())
    assert curve[-1] == pytest.approx(again[-1], abs=1e-6) and curve[1] != again[1]
    assert deletion_gain([1.0, 0.5, 0.0]) == 0.75


def test_shuffled_weights_are_those_of_the_model_in_another_order():
    model = torch.nn.Linear(8, 8)
    other = shuffled(model, 0)
    assert not torch.equal(model.weight, other.weight)
    torch.testing.assert_close(model.weight.flatten().sort().values, other.weight.flatten().sort().values)


@pytest.mark.parametrize(
    ("task", "base"),
    [
        ("text-classification", {"config": {"model_type": "bert", **SIZES, **RANGE}}),
        ("image-classification", {"config": {"model_type": "vit", **SIZES, "image_size": 32, "patch_size": 8}}),
        ("audio-classification", WAV2VEC2),
        ("object-detection", YOLOS),
        ("summarization", BART),
        ("text-generation", {"config": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}}),
    ],
)
def test_rows_of_any_task_are_explained(plugins, task, base):
    rows = plugins.task(task).example_rows()
    work = topwork.build(task, base, rows=rows)
    work.model.eval()
    batch = work.task.collate(work.task.encode(rows[:1], "loss", 0)[:1], "loss")
    before = {name: value.clone() for name, value in work.model.state_dict().items()}
    study = RelevanceStudy(work.task, work.model, None, 3, 2, 0, randomise=False)
    relevance = study.add(batch, list(work.task.units(batch.items[0]).special))
    assert set(relevance) == set(METHODS)
    sizes = {len(values) for values in relevance.values()}
    assert len(sizes) == 1 and sizes.pop() > 3
    assert all(bool((values >= 0).all()) and bool(values.isfinite().all()) for values in relevance.values())
    assert len(study.summary(0.95, 10, 0)) == len(METHODS)
    assert all(torch.equal(value, before[name]) for name, value in work.model.state_dict().items())
    assert all(parameter.grad is None for parameter in work.model.parameters())


def test_the_stage_gives_a_line_for_each_method(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TEXTS), encoding="utf-8")
    recipe = {
        "task": "text-classification",
        "base": {"config": {"model_type": "bert", **SIZES, **RANGE}},
        "data": {"train": {"path": str(file)}, "evaluate": {"path": str(file)}},
        "stages": [{"relevance": {"rows": 3, "steps": 2, "orders": 2, "draws": 20, "shown": 1}}],
    }
    result = topwork.run(recipe, folder=tmp_path / "run", quiet=True).results[0]["result"]
    lines = result["tables"]["faithfulness"]
    assert [line["method"] for line in lines] == list(METHODS)
    for line in lines:
        assert line["above_random"] == pytest.approx(line["deletion"] - line["random"])
        assert -1 <= line["correlation_random_weights"] <= 1
    assert lines[0]["above_attention"] == 0
    shown = result["relevance"][0]
    assert len(shown["names"]) == len(shown["chefer"]) == len(shown["rollout"])


def test_a_model_without_such_attention_is_refused():
    base = {"config": {"model_type": "mamba", "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}}
    work = topwork.build("text-generation", base, rows=TEXTS)
    with pytest.raises(Refused, match="attends to each other"):
        relevance_of_row(Look(work.model), lambda: torch.zeros(()))


@pytest.mark.parametrize(
    ("task", "config", "cause"),
    [
        ("object-detection", {"config": DEFORMABLE}, "encoder.layers.0.self_attn is deformable"),
        ("object-detection", {"config": RT_DETR}, "decoder.layers.0.encoder_attn is deformable"),
        ("text-classification", LONGFORMER, "attention comes in 2 steps"),
    ],
)
def test_attention_that_relevance_cannot_pass_through_is_named(task: str, config: dict[str, Any], cause: str) -> None:
    """Also where other layers (between the queries of a detector) have weights: those are not of input positions."""
    rows = topwork.load_plugins().tasks[task].example_rows()
    work = topwork.build(task, copy.deepcopy(config), rows=rows)
    with pytest.raises(Refused, match=cause) as caught:
        work.apply("relevance", {"evaluate": rows[:1]}, rows=1, steps=1, orders=1, randomise=False)
    assert "attribution_patching" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "base", "elsewhere"),
    [("text-generation", HYBRID, True), ("text-classification", {"config": {"model_type": "bert", **SIZES}}, False)],
    ids=["state spaces between attention", "attention alone"],
)
def test_positions_that_reach_each_other_outside_of_attention_are_remarked(
    task: str, base: dict[str, Any], elsewhere: bool
) -> None:
    rows = topwork.load_plugins().tasks[task].example_rows()
    work = topwork.build(task, copy.deepcopy(base), rows=rows)
    result = work.apply("relevance", {"evaluate": rows[:1]}, rows=1, steps=1, orders=1, randomise=False)
    assert bool(result["remarks"]) == elsewhere
