"""Choosing attention heads through the stages: every way, both sides of an encoder-decoder, groups, shared modules.

What should go is worked out again here from importance.json.
"""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny_bases import BART

import topwork
from topwork import RecipeError, UsageError, load_plugins
from topwork_lens.look import Look

PLUGINS = load_plugins()
TWO = {"encoder_layers": 2, "decoder_layers": 2}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
LLAMA = {"config": {"model_type": "llama", **SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256}}
ALBERT = {"config": {"model_type": "albert", **SIZES, "embedding_size": 16}}
_WHOLE: dict[str, Any] = {}


def scored(name: str, task: str, base: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any], dict[str, list]]:
    """A model, rows by role, and the scores of its attention heads, which `folder` keeps too."""
    rows = PLUGINS.task(task).example_rows()
    roles = {"calibrate": rows, "evaluate": rows, "train": rows}
    if name not in _WHOLE:
        _WHOLE[name] = topwork.build(task, base, rows=rows, plugins=PLUGINS)
    work = topwork.TaskModel(
        _WHOLE[name].task, copy.deepcopy(_WHOLE[name].model), PLUGINS, _WHOLE[name].form
    )  # every test prunes a model of its own
    work.apply("head_importance", roles, run_folder=folder, rows=8)
    (file,) = folder.rglob("importance.json")
    return work, roles, {layer["path"]: layer for layer in json.loads(file.read_text())["layers"]}


def bart(folder: Path) -> tuple[Any, dict[str, Any], dict[str, list]]:
    return scored("bart", "summarization", {"config": {**BART["config"], **TWO}}, folder)


def lowest(layers: dict[str, Any], count: int, least: int = 1) -> dict[str, list[int]]:
    """The `count` attention heads with the lowest scores, of which every layer keeps some."""
    found: dict[str, list[int]] = {}
    ordered = sorted(
        (score, path, head) for path, layer in layers.items() for head, score in enumerate(layer["scores"])
    )
    for _, path, head in ordered:
        if count and len(found.get(path, [])) < len(layers[path]["scores"]) - least:
            found.setdefault(path, []).append(head)
            count -= 1
    return {path: sorted(heads) for path, heads in found.items()}


def side(layers: dict[str, Any], *groups: str) -> dict[str, Any]:
    return {path: one for path, one in layers.items() if ("cross" if one["kind"] == "cross" else one["side"]) in groups}


@pytest.mark.parametrize("stage", ["prune_heads", "mask_heads"])
@pytest.mark.parametrize(
    "way", ["share", "count", "threshold", "at_least", "none_left", "groups", "both_sides", "file", "options"]
)
def test_by_importance(way: str, stage: str, tmp_path: Path) -> None:
    work, roles, layers = bart(tmp_path)
    assert len(layers) == 6
    numbers = sorted(score for one in layers.values() for score in one["scores"])
    options, expected = {
        "share": ({"share": 0.3}, lowest(layers, 7)),
        "count": ({"count": 5}, lowest(layers, 5)),
        "threshold": ({"threshold": (numbers[3] + numbers[4]) / 2}, lowest(layers, 4)),
        "at_least": ({"share": 1.0, "at_least": 3}, lowest(layers, 6, least=3)),
        "none_left": ({"share": 1.0, "at_least": 0}, lowest(layers, 24, least=0)),
        "groups": ({"count": 3, "groups": ["cross"]}, lowest(side(layers, "cross"), 3)),
        "both_sides": (
            {"share": 0.25, "groups": ["encoder", "decoder"]},
            lowest(side(layers, "encoder", "decoder"), 4),
        ),
        "file": ({"count": 4}, lowest(layers, 4)),
        "options": ({"count": 4, "importance": {"rows": 8}}, lowest(layers, 4)),
    }[way]
    if "importance" not in options:
        (file,) = tmp_path.rglob("importance.safetensors" if way == "file" else "importance.json")
        options["importance"] = file
    result = work.apply(stage, roles, **options)
    assert result["removed" if stage == "prune_heads" else "masked"] == expected
    assert result["heads_after"] == 24 - sum(map(len, expected.values()))
    assert sum(len(layer.kept) for layer in Look(work.model).active_layers()) == result["heads_after"]
    if way == "none_left":
        assert result["heads_after"] == 0
    if stage == "prune_heads":
        assert result["check"]["difference"] <= result["check"]["tolerance"]
        assert result["parameters_after"] < result["parameters_before"]
        assert result["flops_after"] < result["flops_before"]
        work.predict(roles["evaluate"][:2])


def test_by_name(tmp_path: Path) -> None:
    """By number in a group, by path, by whole layers; numbers are those at the beginning, twice over."""
    work, roles, layers = bart(tmp_path)
    path = "model.decoder.layers.1.encoder_attn"
    named = {"encoder.0": [1], "cross.0": [0, 3], path: [2], "decoder.1": [0, 1, 2, 3]}
    removed = work.apply("prune_heads", roles, heads=named)["removed"]
    assert removed == {
        "model.encoder.layers.0.self_attn": [1],
        "model.decoder.layers.0.encoder_attn": [0, 3],
        path: [2],
        "model.decoder.layers.1.self_attn": [0, 1, 2, 3],
    }
    again = work.apply("prune_heads", roles, layers=["encoder.0", path])
    assert again["removed"] == {"model.encoder.layers.0.self_attn": [0, 2, 3], path: [0, 1, 3]}
    assert again["heads_after"] == 24 - 8 - 6
    for wrong in ({"heads": {"encoder.0": [4]}}, {"heads": {"encoder.7": [0]}}, {"layers": ["middle.0"]}):
        with pytest.raises(UsageError, match=r"no attention head|unknown attention layer"):
            work.apply("prune_heads", roles, **wrong)
    assert set(layers) >= set(removed)


@pytest.mark.parametrize("by", ["head", "group"])
def test_grouped_queries(by: str, tmp_path: Path) -> None:
    """By group: keys and values go with all their queries. By head: groups of unequal size get copies."""
    work, roles, layers = scored("llama", "text-generation", LLAMA, tmp_path)
    (file,) = tmp_path.rglob("importance.json")
    result = work.apply("prune_heads", roles, count=4, by=by, importance=file)
    if by == "head":
        assert result["removed"] == lowest(layers, 4)
    else:
        means = sorted(
            (sum(one["scores"][first : first + 2]) / 2, path, first) for path, one in layers.items() for first in (0, 2)
        )
        expected: dict[str, list[int]] = {}
        for _, path, first in means:
            if path not in expected and len(expected) < 2:  # at least one attention head stays in a layer
                expected[path] = [first, first + 1]
        assert result["removed"] == expected
    for layer in Look(work.model).layers:
        attention = work.model.get_submodule(layer.path)
        queries, keys = (getattr(attention, name).out_features // 8 for name in ("q_proj", "k_proj"))
        assert queries == len(layer.kept or ())
        assert by == "head" or queries == 2 * keys
    assert result["check"]["difference"] <= result["check"]["tolerance"]
    assert len(work.predict(roles["evaluate"][:2])) == 2


def test_a_shared_module_counts_once(tmp_path: Path) -> None:
    work, roles, layers = scored("albert", "text-classification", ALBERT, tmp_path)
    assert len(layers) == 1
    (file,) = tmp_path.rglob("importance.json")
    result = work.apply("prune_heads", roles, share=0.5, importance=file)
    assert (result["heads_before"], result["heads_after"]) == (4, 2)
    assert result["removed"] == lowest(layers, 2)
    lost = 2 * (4 * 8 * 32 + 3 * 8)  # of two attention heads: q, k, v, o, and the biases of the first three
    assert result["parameters_before"] - result["parameters_after"] == lost


@pytest.mark.parametrize("budget", [0.96, 0.93, 0.9])
def test_until_a_budget_of_operations(budget: float, tmp_path: Path) -> None:
    """The budget is met, and without the attention head that went last it would not have been."""
    work, roles, layers = bart(tmp_path)
    result = work.apply("prune_schedule", roles, flops=budget, step=5)
    assert result["ended_by"] == "flops"
    assert result["flops_after"] <= budget * result["flops_before"]
    last = result["curve"][-1]
    assert last["flops"] == pytest.approx(result["flops_after"] / result["flops_before"])
    assert [point["removed"] for point in result["curve"][:-1]] == list(range(0, 5 * len(result["curve"]) - 5, 5))
    path, head = max(
        ((path, head) for path, heads in last["added"].items() for head in heads),
        key=lambda one: layers[one[0]]["scores"][one[1]],
    )
    rest = {where: [n for n in heads if (where, n) != (path, head)] for where, heads in result["removed"].items()}
    other, _, _ = bart(tmp_path / "again")
    less = other.apply("prune_heads", roles, heads={where: heads for where, heads in rest.items() if heads})
    assert less["flops_after"] > budget * less["flops_before"]


@pytest.mark.parametrize("by", ["head", "group"])
def test_a_budget_of_operations_with_shared_keys_and_values(by: str, tmp_path: Path) -> None:
    """What is left of a group gets a copy of its keys and values: the first of two attention heads saves less than the
    second. A step below the size of a group takes a group."""
    work, roles, _ = scored("llama", "text-generation", LLAMA, tmp_path)
    result = work.apply("prune_schedule", roles, flops=0.87, step=1, by=by)
    assert result["ended_by"] == "flops"
    assert result["flops_after"] <= 0.87 * result["flops_before"]
    shares = [point["flops"] for point in result["curve"]]
    assert shares[-1] == pytest.approx(result["flops_after"] / result["flops_before"])
    steps = [point["removed"] for point in result["curve"]]
    assert steps == list(range(0, steps[-1] + 1, 1 if by == "head" else 2))
    saved = {round(before - after, 9) for before, after in pairwise(shares)}
    assert (len(saved) == 1) == (by == "group")


def test_nothing_above_a_threshold_goes(tmp_path: Path) -> None:
    """Not even in place of what `at_least` keeps."""
    work, roles, layers = bart(tmp_path)
    (file,) = tmp_path.rglob("importance.json")
    paths = sorted(layers)
    kept = json.loads(file.read_text())
    for layer in kept["layers"]:
        layer["scores"] = [0.1, 0.2, 0.3, 0.4] if layer["path"] == paths[0] else [0.6, 0.7, 0.8, 0.9]
    file.write_text(json.dumps(kept))
    result = work.apply("prune_heads", roles, threshold=0.5, importance=file)
    assert result["removed"] == {paths[0]: [0, 1, 2]}


def test_wrong_options_are_told(tmp_path: Path) -> None:
    work, roles, _ = bart(tmp_path)
    for options in (
        {"share": 0.1, "count": 1},
        {},
        {"heads": {0: [1]}, "by": "group"},
        {"random": True, "threshold": 1},
    ):
        with pytest.raises((UsageError, RecipeError)):
            work.apply("prune_heads", roles, **options)
    with pytest.raises(UsageError, match="unknown group"):
        work.apply("prune_heads", roles, count=1, random=True, groups=["backbone"])
    other, _, _ = scored("albert", "text-classification", ALBERT, tmp_path / "other")
    (file,) = (tmp_path / "other").rglob("importance.json")
    with pytest.raises(UsageError, match="head_importance"):
        work.apply("prune_heads", roles, count=1, importance=file)
    assert Look(other.model).layers[0].removed == ()
