"""Analyses of images, sound, detection and sequence-to-sequence models: at least three each, with known properties."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from tiny_bases import BASES

import topwork

TASKS = ("image-classification", "audio-classification", "object-detection", "translation")


@pytest.fixture(scope="module", params=TASKS)
def built(request: pytest.FixtureRequest) -> tuple[str, Any, dict[str, Any]]:
    """A task, its model from random weights, and its example rows by role."""
    task = topwork.load_plugins().tasks[request.param]
    rows = task.example_rows()
    work = topwork.build(task.name, copy.deepcopy(BASES[task.name]), rows=rows)
    return task.name, work, dict.fromkeys(("train", "calibrate", "evaluate"), rows[:6])


def test_patterns_add_up_beside_those_of_uniform_attention(built) -> None:
    name, work, roles = built
    result = work.apply("attention_patterns", roles, rows=6, compared=2)
    partition = {
        "image-classification": ("self", "left", "right", "above", "below", "special"),
        "audio-classification": ("self", "earlier", "later"),
        "object-detection": ("self", "left", "right", "above", "below", "special"),
        "translation": ("self", "previous", "next", "elsewhere"),
    }[name]
    layers = [layer for layer in result["layers"] if layer["kind"] == "self"]
    assert layers
    for layer in layers:
        for head in range(layer["heads"]):
            assert sum(layer[f"share {part}"][head] for part in partition) == pytest.approx(1.0, abs=1e-4)
        assert sum(layer[f"uniform {part}"] for part in partition) == pytest.approx(1.0, abs=1e-4)
        assert all(0 <= breadth <= 1 + 1e-6 for breadth in layer["breadth"])
    assert 0 <= result["maps"][0]["within_layers"] <= math.log(2)


def test_effects_have_intervals_around_them(built) -> None:
    name, work, roles = built
    measures = ["loss"] if name == "translation" else ["metric", "loss"]
    result = work.apply("head_effects", roles, draws=100, corpus_draws=20, measures=measures)
    lines = result["tables"]["One attention head removed"]
    assert len(lines) == result["heads"] == sum(len(layer["kept"]) for layer in result["layers"])
    for line in lines:
        assert line["loss low"] <= line["loss change"] <= line["loss high"]
        assert 0 < line["loss p"] <= 1
    assert any(abs(line["loss change"]) > 0 for line in lines)


def test_mean_ablation_hurts_no_more_than_the_loss_is_finite(built) -> None:
    _, work, roles = built
    options: dict[str, Any] = {"measures": ["loss"], "tables": ["one_removed"], "draws": 100, "donors": 4}
    result = work.apply("head_effects", roles, ablation="mean", **options)
    zeroed = work.apply("head_effects", roles, **options)
    changes = [
        [line["loss change"] for line in part["tables"]["One attention head removed"]] for part in (result, zeroed)
    ]
    assert all(math.isfinite(change) for part in changes for change in part)
    assert changes[0] != changes[1]


def test_roles_need_both_halves(built) -> None:
    _, work, roles = built
    result = work.apply("head_roles", roles, rows=6)
    assert result["rows"] == 6
    for line in result["tables"]["Roles of attention heads"]:
        assert line["when chosen"] >= 0.5
        assert line["confirmed"] == (line["share"] >= (0.5 if line["role"] == "rarest token" else 0.9))


@pytest.mark.parametrize("stage", ["attention_patterns", "head_effects", "head_roles"])
def test_a_model_without_attention_is_refused(stage: str) -> None:
    task = topwork.load_plugins().tasks["image-classification"]
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    rows = task.example_rows()
    work = topwork.build(task.name, {"config": {"model_type": "resnet", **sizes}}, rows=rows)
    with pytest.raises(topwork.Refused, match="no attention layer was found"):
        work.apply(stage, {"evaluate": rows})


def test_an_interval_needs_rows() -> None:
    task = topwork.load_plugins().tasks["image-classification"]
    work = topwork.build(task.name, copy.deepcopy(BASES[task.name]), rows=task.example_rows())
    with pytest.raises(topwork.TopworkError, match="1 rows of `evaluate`"):
        work.apply("head_effects", {"evaluate": task.example_rows()[:1]})
