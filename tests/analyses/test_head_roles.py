"""Roles of attention heads: planted ones are named and confirmed, chance has none; other ablations; training."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from analysis_models import classifier, silence

from topwork import AttentionLayer, TopworkError, Units
from topwork_analyses.attention_patterns.key_sets import key_sets
from topwork_analyses.attention_patterns.statistics_of_heads import Means
from topwork_analyses.head_effects.ablations import Donors, ablation_of
from topwork_analyses.head_effects.over_training import concentration
from topwork_analyses.head_roles.roles import RARE, rare_keys, role_lines, role_shares
from topwork_lens.look import Look

LAYER = AttentionLayer("layer", "out", width=8, heads=4, side="encoder", kind="self")


def _study(counts: Counter[str], rows: int = 12) -> list[dict[str, Any]]:
    """Head 0 looks back, head 1 at the rarest word, head 2 back on even rows alone, head 3 anywhere."""
    halves = (Means(), Means())
    for row in range(rows):
        names = ["[CLS]", *(["sea", "bird"] * 3), "stone", "[SEP]"]
        units = Units("token", names, [0, len(names) - 1])
        keys = len(names)
        weights = torch.rand(4, keys, keys, generator=torch.Generator().manual_seed(row))
        for query in range(1, keys):
            weights[0, query, query - 1] = 5
            weights[2, query, query - 1] = 5 if row % 2 == 0 else 0
        weights[1, :, names.index("stone")] = 5
        weights = weights / weights.sum(-1, keepdim=True)
        sets = key_sets(units, LAYER, keys, keys, decoder_names=True)
        rarest = rare_keys(units, counts, keys, keys)
        assert rarest is not None
        valid = torch.ones(keys, dtype=torch.bool)
        shares = role_shares(weights.argmax(-1), weights.amax(-1), valid, [*sets, rarest])
        halves[row % 2].add("layer", shares)
    return role_lines(*halves, [LAYER])


def test_planted_roles_are_confirmed_and_others_are_not() -> None:
    lines = {(line["head"], line["role"]): line for line in _study(Counter(sea=30, bird=30, stone=2))}
    assert set(lines) == {(0, "previous"), (1, RARE), (2, "previous")}
    assert lines[0, "previous"]["confirmed"] and lines[0, "previous"]["share"] == 1.0
    assert lines[1, RARE]["confirmed"]
    assert lines[1, RARE]["chance"] == pytest.approx(1 / 9)
    assert not lines[2, "previous"]["confirmed"]


def test_of_two_sets_with_the_same_share_the_smaller_is_the_role() -> None:
    """A head that looks at [CLS] looks at special tokens too; what [CLS] itself looks at is no role."""
    halves = (Means(), Means())
    units = Units("token", ["[CLS]", "sea", "bird", "stone", "[SEP]"], [0, 4])
    weights = torch.full((1, 5, 5), 0.1)
    weights[:, :, 0] = 0.6
    for row in range(6):
        sets = key_sets(units, LAYER, 5, 5, decoder_names=True)
        shares = role_shares(weights.argmax(-1), weights.amax(-1), torch.ones(5, dtype=torch.bool), sets)
        halves[row % 2].add("layer", shares)
    layer = AttentionLayer("layer", "out", width=8, heads=1)
    assert [line["role"] for line in role_lines(*halves, [layer])] == ["[CLS]"]


def test_another_rarest_word_is_no_role() -> None:
    assert (1, RARE) not in {(line["head"], line["role"]) for line in _study(Counter(sea=1, bird=30, stone=20))}


def test_the_stage_confirms_on_other_rows() -> None:
    work, rows = classifier(12)
    result = work.apply("head_roles", {"evaluate": rows})
    assert (result["rows"], result["heads"]) == (12, 8)
    assert result["confirmed"] == sum(line["confirmed"] for line in result["tables"]["Roles of attention heads"])
    with pytest.raises((TopworkError, ValueError), match="greater than or equal to 4"):
        work.apply("head_roles", {"evaluate": rows}, rows=2)


def _run(work: Any, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run with these rows, caught inside a stage."""
    from topwork_analyses.head_roles.stage import HeadRoles

    caught: list[Any] = []

    def keep(stage: HeadRoles, run: Any) -> dict[str, Any]:
        caught.append(run)
        return {}

    monkeypatch.setattr(HeadRoles, "__call__", keep)
    work.apply("head_roles", {"evaluate": rows})
    return caught[0]


def test_means_and_samples_are_those_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over all positions of all rows, against the inputs of the output projection, row by row."""
    work, rows = classifier(10)
    run = _run(work, rows, monkeypatch)
    look = Look(work.model)
    donors = Donors.collect(run, "evaluate", look.layers, 10)
    contexts = []
    projection = work.model.bert.encoder.layer[1].attention.output.dense
    handle = projection.register_forward_pre_hook(lambda module, args: contexts.append(args[0].detach()[0]))
    for item in work.task.encode(rows, "loss", 0):
        work.task.row_losses(work.model, work.task.collate([item], "loss"))
    handle.remove()
    path = look.layers[1].path
    assert torch.allclose(donors.means[path].flatten(), torch.cat(contexts).mean(0), atol=1e-5)
    everything = torch.cat(contexts).unflatten(-1, (4, 8))
    assert all((everything - known).abs().amax((1, 2)).min() < 1e-5 for known in donors.kept[path][:20])

    received = []
    with ablation_of("mean", look, donors, 0)(look.layers[1], [2]):
        handle = projection.register_forward_pre_hook(lambda module, args: received.append(args[0].detach()[0]))
        (item,) = work.task.encode(rows[:1], "loss", 0)
        work.task.row_losses(work.model, work.task.collate([item], "loss"))
        handle.remove()
    heads = received[0].unflatten(-1, (4, 8))
    assert torch.allclose(heads[:, 2], donors.means[path][2].expand(len(heads), -1), atol=1e-6)
    assert torch.allclose(heads[:, 1], contexts[0].unflatten(-1, (4, 8))[:, 1], atol=1e-6)


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_a_dead_head_changes_nothing_by_any_ablation(ablation: str) -> None:
    work, rows = classifier()
    silence(work, 1, 2)
    result = work.apply("head_effects", {"evaluate": rows}, ablation=ablation, draws=100, tables=["one_removed"])
    lines = {(line["layer"], line["head"]): line for line in result["tables"]["One attention head removed"]}
    assert lines[1, 2]["loss change"] == pytest.approx(0, abs=1e-6)
    assert sum(abs(line["loss change"]) > 1e-3 for line in lines.values()) >= 6
    zeroed = work.apply("head_effects", {"evaluate": rows}, draws=100, tables=["one_removed"])
    assert zeroed["tables"]["One attention head removed"] != result["tables"]["One attention head removed"]


def test_a_constant_head_is_needed_by_zero_and_not_by_mean() -> None:
    """What is the same at every position has an effect when it is zeroed, and none when it is its mean."""
    work, rows = classifier()
    value = work.model.bert.encoder.layer[0].attention.self.value
    with torch.no_grad():
        value.weight[8:16] = 0
        value.bias[8:16] = 3.0
    changes = {}
    for ablation in ("zero", "mean", "resample"):
        options = {"ablation": ablation, "draws": 100, "tables": ["one_removed"], "measures": ["loss"]}
        result = work.apply("head_effects", {"evaluate": rows}, **options)
        line = next(
            line for line in result["tables"]["One attention head removed"] if (line["layer"], line["head"]) == (0, 1)
        )
        changes[ablation] = abs(line["loss change"])
    assert changes["zero"] > 1e-2
    assert changes["mean"] < 1e-5 and changes["resample"] < 1e-5


def test_importance_is_followed_over_a_training() -> None:
    work, rows = classifier(24)
    before = {name: value.clone() for name, value in work.model.state_dict().items()}
    options = {"train": {"epochs": 2, "batch_size": 8}, "importance": {"rows": 8, "normalise": "none"}}
    roles = {"train": rows, "calibrate": rows[:8]}
    result = work.apply("importance_over_training", roles, **options)
    assert result["scored"] == 3  # before, and at the end of each epoch
    assert len(result["tables"]["Importance over training"]) == 3
    assert result["tables"]["Importance over training"][-1]["agreement with the last"] == pytest.approx(1.0)
    assert any(not torch.equal(value, before[name]) for name, value in work.model.state_dict().items())
    assert result["history"]
    with pytest.raises(TopworkError, match="epochs"):
        work.apply("importance_over_training", roles, train={"epochs": -1})


def test_the_gini_coefficient_of_known_scores() -> None:
    assert concentration([1.0, 1.0, 1.0, 1.0]) == pytest.approx(0.0)
    assert concentration([0.0, 0.0, 0.0, 1.0]) == pytest.approx(0.75)
    assert concentration([1.0, 3.0]) == pytest.approx(0.25)
    assert concentration([0.0, 0.0]) == 0.0
