"""Encoder-decoders with one copy of their weights: pruning that cannot be is refused before the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import topwork

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
SIDE = {"config": {"model_type": "bert", **SIZES, "max_position_embeddings": 64}}
ROWS = [{"source": f"the word {word}", "target": f"{word} word the"} for word in ("one", "two", "three", "four")]
SCORE = {"head_importance": {"method": "random"}}
TRAIN = {"train": {"steps": 1, "batch_size": 4}}


def recipe(folder: Path, stages: list[Any], base: Any = None, **options: Any) -> dict[str, Any]:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {"name": "translation", "max_target_length": 8, "generation": {"max_new_tokens": 4}}
    return {
        "task": {**task, **options} if base is None else {"name": "translation", "max_target_length": 8},
        "base": base or {"encoder": SIDE, "decoder": SIDE},
        "data": {role: str(rows) for role in ("train", "calibrate", "evaluate")},
        "stages": [TRAIN, *stages],
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    """A shared pair in a folder, that a recipe names as its only base."""
    folder = tmp_path_factory.mktemp("shared")
    made = recipe(folder, ["save"], share=True)
    return str(topwork.run(made, folder=folder / "run", quiet=True).model_folder)


PRUNINGS: dict[str, Any] = {
    "a share": [SCORE, {"prune_heads": {"share": 0.5}}],
    "by name": [{"prune_heads": {"heads": {"encoder.0": [1]}}}],
    "a whole layer": [{"prune_heads": {"layers": ["decoder.1"]}}],
    "at random": [{"prune_heads": {"count": 2, "random": True}}],
    "a schedule": [{"prune_schedule": {"share": 0.5, "importance": {"method": "random"}}}],
}


@pytest.mark.parametrize("name", PRUNINGS)
@pytest.mark.parametrize("source", ["built", "built as BertGeneration", "saved"])
def test_pruning_of_shared_weights_is_refused_before_the_training(source, name, saved, tmp_path):
    base = {"model": saved} if source == "saved" else None
    made = recipe(tmp_path, PRUNINGS[name], base, share=True, bert_generation="Generation" in source)
    text = (
        "cannot be pruned: its weights are also those of .*mask_heads" if source == "saved" else "share their weights"
    )
    with pytest.raises(topwork.UsageError, match=text) as caught:
        topwork.run(made, folder=tmp_path / "run", quiet=True)
    assert f"stage {len(made['stages'])}, prune_" in str(caught.value) or "stages.prune_" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_is_not_shared_is_pruned_and_what_is_shared_is_masked(saved, tmp_path):
    cross, mask = {"share": 0.5, "groups": ["cross"]}, {"heads": {"encoder.0": [1]}}
    stages = [SCORE, {"prune_heads": cross}, {"mask_heads": mask}, "save"]
    run = topwork.run(recipe(tmp_path, stages, {"model": saved}), folder=tmp_path / "run", quiet=True)
    pruned = run.results[2]["result"]
    assert pruned["heads_before"] - pruned["heads_after"] == 4
    assert topwork.load(run.model_folder).predict(ROWS) == run.work.predict(ROWS)


def test_sides_of_their_own_are_pruned(tmp_path):
    made = recipe(tmp_path, [SCORE, {"prune_heads": {"share": 0.5}}])
    assert topwork.run(made, folder=tmp_path / "run", quiet=True).results[2]["result"]["heads_after"] == 12
