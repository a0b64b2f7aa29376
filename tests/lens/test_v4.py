"""Checkpoints that transformers 4 pruned: as a base, in a recipe, by the class of the model; and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tolerance import close
from v4_checkpoints import HEADS, SIZES, TYPES, batch_of, edit, losses, rows_of, written_by_version_4

import topwork
from topwork import BaseOptions, CheckpointError, PluginError, alterations, load_plugins
from topwork_lens.look import Look
from topwork_lens.pruning import transformers4 as v4


@pytest.mark.parametrize("kind", list(TYPES))
def test_as_a_base_it_is_pruned(kind: str, tmp_path: Path) -> None:
    """What the whole model computes with those attention heads masked; saved, loaded, pruned again, trained."""
    whole = written_by_version_4(kind, tmp_path / "old")
    task = whole.task.name
    work = topwork.build(task, str(tmp_path / "old"), rows=rows_of(task))
    batch = batch_of(work)
    with whole.look().mask_heads(HEADS):
        masked = losses(whole, batch)
    close(losses(work, batch), masked)
    assert (losses(whole, batch) - masked).abs().max() > 1e-3
    assert work.form == "native"
    assert [layer.removed for layer in work.look().layers] == [(1, 3), (), (0,)]
    work.save(tmp_path / "new")
    assert not (tmp_path / "new" / "model.safetensors").exists()
    assert "pruned_heads" not in json.loads((tmp_path / "new" / "config.json").read_text())
    again = topwork.load(tmp_path / "new")
    assert torch.equal(losses(again, batch), losses(work, batch))
    assert list(topwork.prune_heads(again.model, {0: [1, 2]}).removed.values()) == [[2]]
    again.train(rows_of(task), steps=1, batch_size=4)
    assert [layer.kept for layer in again.look().layers] == [(0,), (0, 1, 2, 3), (1, 2, 3)]


def test_in_a_recipe(tmp_path: Path) -> None:
    written_by_version_4("bert", tmp_path / "old")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of("text-classification")), encoding="utf-8")
    recipe = {
        "task": "text-classification",
        "base": {"model": str(tmp_path / "old")},
        "data": {role: {"path": str(file)} for role in ("train", "calibrate", "evaluate")},
        "stages": [{"train": {"steps": 1, "batch_size": 4}}, "evaluate", {"prune_heads": {"heads": {1: [2]}}}, "save"],
    }
    done = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    pruned = done.results[2]["result"]
    assert (pruned["heads_before"], pruned["heads_after"]) == (9, 8)
    found = topwork.look(topwork.load(done.model_folder).model).layers
    assert [layer.removed for layer in found] == [(1, 3), (2,), (0,)]


def test_under_a_task_head_that_it_was_not_made_for(tmp_path: Path) -> None:
    """The pruned checkpoint is a part of the model: under a dense head, and as the encoder of a pair."""
    whole = written_by_version_4("vit", tmp_path / "vit")
    work = topwork.build("depth-estimation", str(tmp_path / "vit"), rows=rows_of("depth-estimation"))
    assert work.form == "generic"
    assert [layer.removed for layer in work.look().layers] == [(1, 3), (), (0,)]
    image = torch.randn(2, 3, 32, 32)
    inside = next(module for module in work.model.modules() if type(module).__name__ == "ViTModel")
    with torch.no_grad(), whole.look().mask_heads(HEADS):
        expected = whole.model.vit(image).last_hidden_state
        close(inside(image).last_hidden_state, expected)
    work.save(tmp_path / "saved")
    again = topwork.load(tmp_path / "saved")
    close(losses(again, batch_of(work)), losses(work, batch_of(work)))

    written_by_version_4("bert", tmp_path / "bert")
    config = {"model_type": "bert", **SIZES}
    topwork.build("fill-mask", {"config": config}, rows=rows_of("fill-mask")).save(tmp_path / "decoder")
    bases = {"encoder": str(tmp_path / "bert"), "decoder": str(tmp_path / "decoder")}
    pair = topwork.build("summarization", bases=bases, rows=rows_of("summarization"))
    gone = {layer.path: layer.removed for layer in pair.look().layers if layer.removed}
    assert gone == {f"encoder.encoder.layer.{layer}.attention": tuple(heads) for layer, heads in HEADS.items()}


def test_a_new_task_head(tmp_path: Path) -> None:
    written_by_version_4("bert", tmp_path)
    rows = [{"text": text, "label": label} for text, label in (("one", "a"), ("two", "b"), ("three", "c"))]
    one, other = (
        topwork.build("text-classification", {"model": str(tmp_path), "head": "new"}, rows=rows, seed=seed)
        for seed in (2, 3)
    )
    stored = load_file(tmp_path / "model.safetensors")
    heads = [one.model.classifier.weight, other.model.classifier.weight, stored["classifier.weight"]]
    assert {tuple(head.shape) for head in heads} == {(3, 32)}
    assert not any(torch.equal(first, second) for first, second in itertools.combinations(heads, 2))
    for name, tensor in one.model.state_dict().items():
        assert name.startswith("classifier") or torch.equal(tensor, stored[name]), name


def test_random_weights_in_its_shape(tmp_path: Path) -> None:
    written_by_version_4("bert", tmp_path)
    base = {"model": str(tmp_path), "weights": False}
    work = topwork.build("text-classification", base, rows=rows_of("text-classification"))
    assert work.model.bert.encoder.layer[0].attention.self.query.weight.shape == (16, 32)
    assert [layer.removed for layer in work.look().layers] == [(1, 3), (), (0,)]


def test_without_the_lens_it_is_an_error(tmp_path: Path) -> None:
    written_by_version_4("bert", tmp_path)
    with pytest.raises(PluginError, match=r"pruned_heads.*`lens`"):
        topwork.build("text-classification", str(tmp_path), plugins=load_plugins(disable=["lens"]))


def test_where_nobody_would_load_its_weights_it_is_not_made(tmp_path: Path) -> None:
    written_by_version_4("bert", tmp_path)
    base = load_plugins().load_base(BaseOptions(model=str(tmp_path)))
    with pytest.raises(CheckpointError, match=r"topwork\.build"):
        base.native("AutoModelForSequenceClassification")
    with pytest.raises(CheckpointError, match=r"topwork\.build"):
        base.backbone()


WRONG = [
    ({"0": [9]}, "has 4"),
    ({"7": [0]}, "this model has 3 layers"),
    ({"0": [1]}, "another shape"),
    ({"zero": [1]}, "no list of attention heads"),
    ([1], "no list of attention heads"),
    ({"0": [1, 3], "1": [0], "2": [0]}, "another shape"),
    ({}, "another shape"),
]


@pytest.mark.parametrize(("noted", "match"), WRONG)
def test_a_note_that_does_not_fit_is_an_error(noted: Any, match: str, tmp_path: Path) -> None:
    written_by_version_4("bert", tmp_path)
    edit(tmp_path, pruned_heads=noted)
    with pytest.raises(CheckpointError, match=match):
        topwork.build("text-classification", str(tmp_path))


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_by_the_class_of_the_model(kind: str, tmp_path: Path) -> None:
    whole = written_by_version_4(kind, tmp_path)
    model: Any = v4.load(tmp_path, type(whole.model))
    assert type(model) is type(whole.model)
    batch = batch_of(whole)
    with whole.look().mask_heads(HEADS):
        expected = losses(whole, batch)
    with torch.no_grad():
        close(whole.task.row_losses(model, batch), expected)
    assert [layer.removed for layer in Look(model).layers] == [(1, 3), (), (0,)]
    assert "layers" in alterations(model)["lens"]
    assert not getattr(model.config, "pruned_heads", None)
    for wrong, match in (({"0": [9]}, "has 4"), ({"0": [1]}, "fit")):
        edit(tmp_path, pruned_heads=wrong)
        with pytest.raises(CheckpointError, match=match):
            v4.load(tmp_path, type(whole.model))
