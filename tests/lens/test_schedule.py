"""Schedules of pruning: M7 of the literature, both searches, and the stage with its limits, recovery and baseline."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import lens_models
import pytest
import torch
from lens_recipes import recipe, run
from tolerance import close

import topwork
from topwork import AttentionLayer, RecipeError, UsageError
from topwork_lens.flops import Flops, attention_share, count_flops, speed_limit
from topwork_lens.look import Look
from topwork_lens.schedule import output_cache
from topwork_lens.schedule.schedule import Limits, Schedule
from topwork_lens.scoring.selection import Choice, Importance, LayerScores, choose, choose_random
from topwork_lens.stages.head_importance import ScoreOptions, score_model
from topwork_lens.stages.prune_schedule import PruneSchedule

make, without_labels = lens_models.make, lens_models.without_labels
LAYERS = [AttentionLayer(f"layer.{number}", "out", 4, 2) for number in range(3)]
FLOPS = Flops(2400, {f"layer.{number}": 400 for number in range(3)})


def scores(gone: Any) -> Importance:
    entries = [
        LayerScores(one.path, "encoder", "self", n, 4, [0, 1, 2, 3], [n + head / 10 for head in range(4)])
        for n, one in enumerate(LAYERS)
    ]
    return Importance("test", 1, "none", entries)


def search(measure: Any, limits: Limits, *, step: int = 2, at_least: int = 0, **options: Any) -> Schedule:
    return Schedule(
        LAYERS, Choice(at_least=at_least), step, limits, FLOPS, measure, options.pop("score", scores), **options
    )


def count(masks: dict[str, list[int]]) -> int:
    return sum(map(len, masks.values()))


@pytest.mark.parametrize("step", [1, 2, 5, 12, 20])
@pytest.mark.parametrize("at_least", [0, 1])
def test_m7_a_constant_metric_ends(step: int, at_least: int) -> None:
    """run_bertology never ended when the metric did not fall."""
    found = search(lambda gone: 0.8, Limits(metric=0.9), step=step, at_least=at_least).run()
    most = 12 - 3 * at_least
    assert len(found.curve) - 1 == math.ceil(most / step)
    assert (found.reason, count(found.removed)) == ("nothing left", most)


@pytest.mark.parametrize("method", ["run", "bisect"])
def test_m7_the_mask_is_the_last_within_the_threshold_and_masks_are_nested(method: str) -> None:
    seen = []

    def measure(gone: Any) -> float:
        seen.append(gone)
        return 1.0 - 0.02 * count(gone)

    found = getattr(search(measure, Limits(metric=0.85), step=1), method)()
    assert (count(found.removed), found.reason) == (7, "metric")
    ordered = sorted(seen, key=count)
    for one, other in itertools.pairwise(ordered):
        assert all(set(numbers) <= set(other.get(path, ())) for path, numbers in one.items())
    assert len(seen) == (9 if method == "run" else len(found.curve))
    assert method == "run" or len(seen) <= 5
    assert [point.removed for point in found.curve] == sorted({count(gone) for gone in seen})


def test_a_metric_that_should_be_low_and_one_that_is_no_number() -> None:
    found = search(lambda gone: 0.2 + 0.01 * count(gone), Limits(metric=0.8), step=1, higher_is_better=False).run()
    assert count(found.removed) == 5
    found = search(lambda gone: math.nan if gone else 1.0, Limits(metric=0.5)).run()
    assert (found.removed, found.reason) == ({}, "metric")


def test_a_share_and_a_budget_are_met_exactly() -> None:
    found = search(lambda gone: 1.0, Limits(share=0.6), step=4).run()
    assert (count(found.removed), found.reason) == (7, "share")
    assert [point.removed for point in found.curve] == [0, 4, 7]
    found = search(lambda gone: 1.0, Limits(flops=0.8), step=3).run()
    assert (found.curve[-1].flops, found.reason) == (pytest.approx(1 - 5 / 24), "flops")
    assert found.curve[-1].flops <= 0.8 < 1 - 4 / 24


def test_iterative_scores_the_masked_model_at_every_step() -> None:
    asked = []
    search(lambda gone: 1.0, Limits(share=0.5), score=lambda gone: asked.append(count(gone)) or scores(gone)).run()
    assert asked == [0]
    asked.clear()
    options: dict[str, Any] = {"score": lambda gone: asked.append(count(gone)) or scores(gone), "iterative": True}
    search(lambda gone: 1.0, Limits(share=0.5), **options).run()
    assert asked == [0, 2, 4]


def test_random_choices_of_one_seed_are_nested() -> None:
    for removed in range(1, 9):
        one, other = (choose_random(LAYERS, Choice(count=number), 3) for number in (removed - 1, removed))
        assert count(other) == removed
        assert all(set(numbers) <= set(other[path]) for path, numbers in one.items())


def test_groups_go_together() -> None:
    layers = [AttentionLayer(f"layer.{number}", "out", 4, 2, groups=2) for number in range(3)]
    chosen = choose(layers, Choice(count=5, by="group", at_least=0), scores({}))
    assert chosen == {"layer.0": [0, 1, 2, 3]}
    model, batch = make("llama")
    inputs = without_labels(batch, model)
    look = Look(model)
    importance = look.importance([batch], "random")
    result = look.prune_heads(choose(look.layers, Choice(share=0.5, by="group"), importance), check=inputs)
    assert result.heads_after == 6
    for layer in model.model.layers:
        assert layer.self_attn.q_proj.out_features == 2 * layer.self_attn.k_proj.out_features


def test_operations_follow_the_formula() -> None:
    """a = (2d + S) / (6d + S) of a BERT layer with f = 4d; half of the attention heads gone halves its attention."""
    from transformers import BertConfig, BertModel

    width, positions = 32, 12
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 2}
    model = BertModel(BertConfig(**sizes, num_attention_heads=4, vocab_size=30), add_pooling_layer=False).eval()
    ids = torch.randint(0, 30, (3, positions))
    look = Look(model)
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        flops = count_flops(model, look.layers, lambda: model(ids))
        assert flops.share == pytest.approx(attention_share(width, positions), rel=1e-9)
        assert flops.total == 3 * 2 * 2 * (12 * positions * width**2 + 2 * positions**2 * width)
    half = {number: [0, 2] for number in range(2)}
    result = look.prune_heads(half)
    before, after = (count_flops(model, look.layers, lambda: model(ids)) for _ in range(2))
    assert before == after
    assert before.attention == flops.attention // 2
    assert flops.without(Look(BertModel(model.config)).layers, {"encoder.layer.0.attention": [1, 2]}) == (
        flops.total - flops.attention // 4
    )
    assert flops.limit(before) == pytest.approx(speed_limit(0.5, flops.share))
    assert result.json()["speed_limit"] > 1


# ---------------------------------------------------------------- the stage


def test_the_stage_keeps_its_curve_and_cuts_once(tmp_path: Path) -> None:
    options = {"share": 0.5, "step": 2, "compare_random": 2, "evaluate": True, "iterative": True}
    done = run(tmp_path, [{"prune_schedule": options}, "save"])
    found = done.results[0]["result"]
    primary = done.task.metric().primary
    curve = found["curve"]
    assert [point["removed"] for point in curve] == [0, 2, 4]
    assert (found["heads_before"], found["heads_after"], found["ended_by"]) == (8, 4, "share")
    assert all({primary, f"random_{primary}", f"evaluate_{primary}"} & set(point) for point in curve)
    assert curve[0][f"random_{primary}"] == curve[0]["metric"] == found[f"first_{primary}"]
    # rows of both roles are the same here: the cut model is the masked one
    assert done.evaluate("evaluate")[primary] == curve[-1]["metric"] == curve[-1][f"evaluate_{primary}"]
    assert found["check"]["difference"] <= found["check"]["tolerance"]
    assert sum(map(len, found["removed"].values())) == 4
    kept = json.loads((tmp_path / "run" / done.results[0]["folder"] / "curve.json").read_text())
    assert kept["curve"] == curve
    assert sum(len(layer.kept or ()) for layer in topwork.look(topwork.load(done.model_folder).model).layers) == 4
    from topwork.console import numbers_in

    assert f"random_{primary}" in numbers_in(found)


@pytest.mark.parametrize("iterative", [True, False])
def test_scores_and_metric_come_from_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iterative: bool) -> None:
    """As in run_bertology's loop; where nothing may be remembered, both are made one after the other: with the same
    curve and the same masks."""
    from transformers import BertForSequenceClassification

    own, ran, found = BertForSequenceClassification.forward, [], []
    monkeypatch.setattr(
        BertForSequenceClassification, "forward", lambda *args, **inputs: ran.append(1) or own(*args, **inputs)
    )
    for memory in (output_cache.LIMIT, 0):
        monkeypatch.setattr(output_cache, "LIMIT", memory)
        options = {"share": 0.75, "step": 2, "iterative": iterative, "prune": False}
        (tmp_path / str(memory)).mkdir()
        done = run(tmp_path / str(memory), [{"prune_schedule": options}])
        found.append((done.results[0]["result"], len(ran)))
        ran.clear()
    assert found[0][0] == found[1][0]
    # four points are measured, and scored but for the last one, or but for all after the first
    assert found[1][1] - found[0][1] == (3 if iterative else 1)


def test_only_equal_calls_are_answered_from_memory() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, factor: float = 2.0, draw: bool = False) -> dict[str, torch.Tensor]:
            ran.append(1)
            return {"y": factor * x + (torch.rand(1) if draw else 0)}

    ran: list[int] = []
    model, known = Model(), output_cache.OutputCache()
    ones = torch.ones(2, requires_grad=True)
    with known.recording(model):
        assert model(x=ones)["y"].requires_grad
        model(x=ones, draw=True)
        model(ones, 3.0)
    assert len(ran) == 3
    with known.replaying(model):
        for call in ({"x": torch.zeros(2)}, {"x": ones, "factor": 2.0}, {"x": ones, "draw": True}, {"x": ones[:1]}):
            model(**call)
        model(ones, 3.0)
        assert (len(ran), known.hits) == (8, 0)
        answer = model(x=torch.ones(2))["y"]
        assert answer.tolist() == [2.0, 2.0] and not answer.requires_grad
        assert (len(ran), known.hits) == (8, 1)
        model(x=torch.ones(2))  # once each
    assert len(ran) == 9 and "forward" not in vars(model)


def test_other_ways_to_choose_are_drawn_beside_it(tmp_path: Path) -> None:
    """Every value of every curve, measured again by masking; the page draws them."""
    mine = {"method": "leave_one_out", "normalise": "none"}
    options = {"share": 0.75, "step": 2, "compare": [mine, "taylor", "random"], "evaluate": True, "prune": False}
    made = recipe(tmp_path, [{"prune_schedule": options}, "report"])
    made["data"]["evaluate"] = {**made["data"]["evaluate"], "limit": 5}
    done = topwork.run(made, folder=tmp_path / "run", quiet=True)
    found = done.results[0]["result"]
    names = ["michel", "leave_one_out, normalise none", "taylor", "at random (mean of 6)"]
    assert [chart["title"].split()[2] for chart in found["curves"]] == ["calibrate", "evaluate"]
    look, primary = Look(done.model), done.task.metric().primary

    def measured(gone: Any, role: str) -> float:
        with look.mask_heads(gone):
            return float(done.evaluate(role)[primary])

    scored = {"leave_one_out, normalise none": mine, "taylor": {"method": "taylor"}, "michel": {"method": "michel"}}
    for chart, role in zip(found["curves"], ("calibrate", "evaluate"), strict=True):
        assert list(chart["series"]) == names
        for name, options in scored.items():
            expected = []
            for removed in (0, 2, 4, 6):
                gone = choose(look.layers, Choice(count=removed), score_model(done, ScoreOptions(**options)))
                expected.append([removed / 8, measured(gone, role)])
            close(torch.tensor(chart["series"][name]), torch.tensor(expected))
        drawn = [point["random"][role] for point in found["curve"]]
        assert [len(one) for one in drawn] == [6] * 4
        chance = torch.tensor([[n / 4, sum(one) / 6] for n, one in enumerate(drawn)])
        close(torch.tensor(chart["series"][names[3]]), chance)
        heights = [y for _, y in chart["series"]["michel"]]
        area = (sum(heights) - (heights[0] + heights[-1]) / 2) / 3
        assert chart["areas"]["michel"] == pytest.approx(area)
    areas = found["curves"][1]["areas"]
    assert found["area_gained"] == pytest.approx(areas["michel"] - areas[names[3]])
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('<path class="curve') == 8
    assert all(name in page for name in names)


def test_only_the_curve(tmp_path: Path) -> None:
    done = run(tmp_path, [{"prune_schedule": {"metric": 0.9, "step": 0.25, "prune": False, "search": "bisect"}}])
    assert sum(len(layer.kept or ()) for layer in Look(done.model).layers) == 8
    assert done.results[0]["result"]["curve"][0]["removed"] == 0


def test_recovery_trains_what_was_cut(tmp_path: Path) -> None:
    recover = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
    done = run(tmp_path, [{"prune_schedule": {"share": 0.5, "step": 2, "recover": recover}}])
    found = done.results[0]["result"]
    assert found["heads_after"] == 4 == sum(len(layer.kept or ()) for layer in Look(done.model).layers)
    assert all("recovered" in point and point["recovery_loss"] > 0 for point in found["curve"][1:])
    # of all its cuts together
    assert found["parameters_after"] < found["parameters_before"] and found["flops_after"] < found["flops_before"]
    assert found["flops_after"] / found["flops_before"] == pytest.approx(found["curve"][-1]["flops"])
    assert found["removed"] == found["masks"] and found["check"]["proves"]
    assert not list((tmp_path / "run" / done.results[0]["folder"]).glob("recover-*"))


def test_a_fall_takes_the_last_step_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[dict[str, torch.Tensor]] = []
    own = PruneSchedule.__call__

    def call(self: PruneSchedule, one: Any) -> Any:
        before.append({key: value.clone() for key, value in one.model.state_dict().items()})
        return own(self, one)

    monkeypatch.setattr(PruneSchedule, "__call__", call)
    monkeypatch.setattr(Limits, "falls", lambda self, metric, first, higher: True)
    recover = {"steps": 2, "batch_size": 4, "learning_rate": 1e-1}
    done = run(tmp_path, [{"prune_schedule": {"metric": 0.9, "step": 2, "recover": recover}}])
    found = done.results[0]["result"]
    assert (found["ended_by"], found["heads_after"], len(found["curve"])) == ("metric", 8, 2)
    assert all(torch.equal(value, before[0][key]) for key, value in done.model.state_dict().items())


def test_wrong_options(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"share": 0.5, "search": "bisect"},
        {"share": 0.5, "recover": {}, "prune": False},
        {"share": 0.5, "recover": {}, "compare": ["taylor"]},
        {"share": 0.5, "compare": ["tailor"]},
        {"share": 0.5, "compare": ["michel"]},
        {"metric": 1.5},
    ]
    for options in wrong:
        with pytest.raises(RecipeError):
            run(tmp_path, [{"prune_schedule": options}])
    with pytest.raises(UsageError, match="epoch"):
        run(tmp_path, [{"prune_schedule": {"share": 0.5, "recover": {"epoch": 1}}}])


def test_outputs_that_a_hook_changed_answer_no_call_without_it() -> None:
    """Fill-mask computes the logits of its masks alone, by a hook that changes what the model gives."""
    model, known = torch.nn.Sequential(torch.nn.Linear(3, 3)), output_cache.OutputCache()
    inputs = {"input": torch.randn(2, 3)}
    handle = model[0].register_forward_hook(lambda module, given, output: output[:1])
    with known.recording(model):
        assert model(**inputs).shape == (1, 3)
    handle.remove()
    with known.replaying(model):
        assert model(**inputs).shape == (2, 3)
    with known.recording(model), known.replaying(model):
        assert torch.equal(model(**inputs), model(**inputs))
