"""Every analysis on every task: finite figures within their bounds, or a refusal whose reason is right."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import BASES

import topwork

PARSED = [
    (["the", "dog", "runs"], [2, 3, 0], ["det", "nsubj", "root"]),
    (["a", "red", "fox", "sat"], [3, 3, 4, 0], ["det", "amod", "nsubj", "root"]),
    (["the", "old", "tree", "fell"], [3, 3, 4, 0], ["det", "amod", "nsubj", "root"]),
    (["birds", "sing"], [2, 0], ["nsubj", "root"]),
] * 3
ROWS: dict[str, Any] = {"rows": 4, "draws": 100}
#: stage -> options; those in PARSED_ROWS read sentences from a file
STAGES: dict[str, dict[str, Any]] = {
    "attention_patterns": {"rows": 4, "compared": 2},
    "head_roles": {"rows": 4},
    "word_relations": {"draws": 100, "least": 1},
    "edge_probing": {"labels": ["relations"], "seeds": 1, "epochs": 1, "projection": 8, "draws": 10},
    "cat_probing": {"language": "dependencies", "types": None, "permutations": 5, "draws": 10},
    "relevance": {**ROWS, "steps": 2, "orders": 1, "shown": 1, "randomise": False},
    "attribution_patching": {**ROWS, "top": 2},
    "direct_attribution": ROWS,
    "early_exit": {"limit": 4},
    "drift": {**ROWS, "permutations": 5},
    "head_effects": {"draws": 100, "corpus_draws": 20, "limit": 4, "measures": ["loss"]},
    "importance_over_training": {"train": {"steps": 1, "batch_size": 2}, "importance": {"rows": 4}},
}
PARSED_ROWS = {"word_relations": ["dependencies"], "edge_probing": ["train", "evaluate"], "cat_probing": ["rows"]}
SOUND_OR_IMAGES = {"audio-classification", "image-classification", "depth-estimation", "image-segmentation"}
SOUND_OR_IMAGES |= {"object-detection", "automatic-speech-recognition"}
#: layers of these have fewer and fewer positions
PYRAMIDS = {"depth-estimation", "image-segmentation"}
#: their small networks normalise behind the layers
AFTER = {"fill-mask", "question-answering", "text-classification", "token-classification"}
#: a few seconds each
SLOW = ("head_effects", "importance_over_training")


def reason(stage: str, task: str) -> str | None:
    """The cause that a refusal has to name; None where the analysis makes sense."""
    if stage in PARSED_ROWS and task in SOUND_OR_IMAGES:
        return "reads images or sound" if task == "automatic-speech-recognition" else "has no tokenizer"
    if task in PYRAMIDS:
        return {
            "relevance": "no stack in which each position attends to each other in every layer",
            "early_exit": "no stack of layers has states of one shape",
            "drift": "its layers have different positions or widths",
            "direct_attribution": "is not the sum of what was written",
        }.get(stage)
    if stage == "direct_attribution" and task in AFTER:
        return "norms or scales stand in the stream"
    return "name one: stack=" if stage == "direct_attribution" and task in ("summarization", "translation") else None


def undefined(value: Any, path: str = "") -> Iterator[str]:
    """Where a result holds a number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, entry in entries:
        yield from undefined(entry, f"{path}.{name}")


def sensible(stage: str, result: dict[str, Any]) -> None:
    """Bounds that figures of a stage have on any model."""
    tables = result.get("tables", {})
    if stage == "attention_patterns":
        assert all(0 <= value <= 1 + 1e-6 for layer in result["layers"] for value in layer["breadth"])
    elif stage == "drift":
        assert all(-1 <= line["cka"] <= 1 + 1e-4 and 0 < line["p"] <= 1 for line in tables["layers"])
        moved = [line["divergence"] for line in tables["attention heads"]]
        assert moved and all(0 < value <= math.log(2) for value in moved), "an attention head over one key cannot move"
    elif stage == "early_exit":
        assert [line["layer"] for line in tables["by layer"]] == list(range(result["layers_count"] + 1))
        whole = result["metrics"][result["primary"]]
        assert (result["first_within"] is None) == (result["higher_is_better"] and whole == 0)
    elif stage == "relevance":
        (shown,) = result["relevance"]
        assert len({len(shown[name]) for name in ("attention", "rollout", "norms", "chefer", "gradient")}) == 1
        assert all(value >= 0 for name in ("attention", "rollout", "norms", "chefer") for value in shown[name])
    elif stage == "attribution_patching":
        assert result["metrics"]["scalar"] != result["metrics"]["scalar_corrupt"]
        assert all(line["low"] <= line["exact"] <= line["high"] for line in next(iter(tables.values())))
    elif stage == "head_effects":
        for line in tables["One attention head removed"]:
            assert line["loss low"] <= line["loss change"] <= line["loss high"]


@pytest.fixture(scope="module", params=sorted(BASES))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any, str]:
    """A task, its model from random weights, its example rows, and a file of parsed sentences."""
    rows = topwork.load_plugins().tasks[request.param].example_rows()
    torch.manual_seed(0)
    work = topwork.build(request.param, copy.deepcopy(BASES[request.param]), rows=rows)
    file: Path = tmp_path_factory.mktemp("parsed") / "rows.jsonl"
    parsed = [dict(zip(("words", "heads", "relations"), each, strict=True)) for each in PARSED]
    file.write_text("".join(json.dumps(row) + "\n" for row in parsed), encoding="utf-8")
    return request.param, work, dict.fromkeys(("train", "calibrate", "evaluate"), rows[:6]), str(file)


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[pytest.mark.learn] if stage in SLOW else []) for stage in STAGES]
)
def test_an_analysis_has_finite_figures_or_a_right_reason(built: tuple[str, Any, Any, str], stage: str) -> None:
    task, work, roles, parsed = built
    options = copy.deepcopy(STAGES[stage]) | {name: {"path": parsed} for name in PARSED_ROWS.get(stage, ())}
    before = {name: value.clone() for name, value in work.model.state_dict().items()}
    wanted = reason(stage, task)
    if wanted is not None:
        with pytest.raises(topwork.TopworkError, match=wanted):
            work.apply(stage, roles, **options)
    else:
        result = work.apply(stage, roles, **options)
        assert not list(undefined(result))
        json.dumps(result, allow_nan=False)
        assert result.get("rows", 4) in (4, 12)
        sensible(stage, result)
    if stage == "importance_over_training":
        work.model.load_state_dict(before)  # it is to train the model, for the next stage it is as it was
    assert all(torch.equal(value, before[name]) for name, value in work.model.state_dict().items())
    assert all(parameter.grad is None for parameter in work.model.parameters())
