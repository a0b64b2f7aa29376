"""The lens as stages of a recipe, through the real door: build, train nothing, score, mask, prune, save, load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lens_recipes import RANGE, SIZES, recipe, run
from tolerance import close

import topwork
from topwork import RecipeError, UsageError
from topwork.console import numbers_in
from topwork_lens.look import Look
from topwork_lens.scoring.selection import Importance
from topwork_lens.stages.head_importance import HeadImportance
from topwork_lens.stages.mask_heads import MaskHeads
from topwork_lens.stages.prune_heads import PruneHeads


def test_scored_pruned_saved_and_loaded(tmp_path: Path) -> None:
    stages = [
        {"head_importance": {"rows": 8}},
        {"prune_heads": {"share": 0.5, "compare_random": 2}},
        "save",
    ]
    done = run(tmp_path, stages)
    scored, pruned = done.results[0]["result"], done.results[1]["result"]
    assert scored["rows"] == 8
    folder = tmp_path / "run" / done.results[0]["folder"]
    assert Importance.load(folder).json() == {key: scored[key] for key in scored if key != "head_maps"}
    assert (pruned["heads_before"], pruned["heads_after"]) == (8, 4)
    assert pruned["check"]["difference"] <= pruned["check"]["tolerance"] == 1e-5
    assert pruned["check"]["proves"] is True
    assert {line["form"] for line in pruned["layers"]} <= {"hard", "whole"}
    lowest = sorted(
        (score, layer["path"], number) for layer in scored["layers"] for number, score in enumerate(layer["scores"])
    )
    assert lowest[0][2] in pruned["removed"][lowest[0][1]]
    assert pruned["random"]["draws"] == 2
    primary = done.task.metric().primary
    assert pruned[f"random_{primary}"] == pytest.approx(sum(pruned["random"]["values"]) / 2)
    assert all(f"{key} " in numbers_in(pruned) for key in ("heads_before", "heads_after", f"random_{primary}"))
    assert {"group", "number", "side", "kind", "path", "kept", "heads"} <= set(pruned["layers"][0])
    assert pruned["flops_after"] < pruned["flops_before"]
    assert 1 < pruned["speed_limit"] < pruned["flops_before"] / pruned["flops_after"] * 1.001
    assert pruned[f"masked_{primary}"] == done.evaluate("evaluate")[primary]

    loaded = topwork.load(done.model_folder)
    assert not (done.model_folder / "model.safetensors").exists()
    assert sum(len(layer.kept or ()) for layer in topwork.look(loaded.model).layers) == 4
    batch = next(iter(done.loss_batches("evaluate")))
    with torch.no_grad():
        one, other = done.task.row_losses(done.model, batch), loaded.task.row_losses(loaded.model, batch)
    assert torch.equal(one, other)
    gone = pruned["removed"]
    again = topwork.prune_heads(loaded.model, {path: [*numbers, 3] for path, numbers in gone.items()})
    assert all(not set(numbers) & set(gone[path]) for path, numbers in again.removed.items())


def test_gates_are_saved_and_masked_heads_are_not_chosen_twice(tmp_path: Path) -> None:
    stages = [
        {"mask_heads": {"heads": {0: [1, 2]}}},
        {"mask_heads": {"count": 2, "importance": {"rows": 8}}},
        {"mask_heads": {"count": 1, "random": True}},
        "save",
    ]
    done = run(tmp_path, stages)
    first, second, third = (done.results[i]["result"] for i in range(3))
    assert (first["heads_before"], first["heads_after"]) == (8, 6)
    assert (second["heads_before"], second["heads_after"]) == (6, 4)
    assert third["heads_after"] == 3
    path = next(iter(first["masked"]))
    assert not set(second["masked"].get(path, ())) & {1, 2}
    loaded = topwork.load(done.model_folder)
    batch = next(iter(done.loss_batches("evaluate")))
    with torch.no_grad():
        one, other = done.task.row_losses(done.model, batch), loaded.task.row_losses(loaded.model, batch)
    assert torch.equal(one, other)
    assert sum(len(layer.kept or ()) for layer in Look(loaded.model).active_layers()) == 3


@pytest.mark.parametrize("method", ["michel", "taylor", "leave_one_out", "entropy", "random"])
def test_every_method_scores_every_attention_head(tmp_path: Path, method: str) -> None:
    found = run(tmp_path, [{"head_importance": {"method": method, "batch_size": 3}}]).results[0]["result"]
    assert found["rows"] == 8
    assert [len(layer["scores"]) for layer in found["layers"]] == [4, 4]
    assert all(score is not None for layer in found["layers"] for score in layer["scores"])


def test_batch_size_changes_no_score(tmp_path: Path) -> None:
    stages = [{"head_importance": {"batch_size": size, "normalise": "none"}} for size in (1, 3, 8)]
    done = run(tmp_path, stages)
    scores = [[layer["scores"] for layer in record["result"]["layers"]] for record in done.results]
    for one in scores[1:]:
        close(one, scores[0])


def test_bf16_scores_alike(tmp_path: Path) -> None:
    stages = [{"head_importance": {"precision": kind, "normalise": "none"}} for kind in ("float32", "bf16")]
    done = run(tmp_path, stages)
    one, other = (torch.tensor([layer["scores"] for layer in r["result"]["layers"]]).flatten() for r in done.results)
    assert not torch.equal(one, other)
    assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.99


def test_attention_of_texts(tmp_path: Path) -> None:
    done = run(tmp_path, [{"attention": {"rows": 5, "overlays": 2}}])
    found = json.loads((tmp_path / "run" / done.results[0]["folder"] / "attention.json").read_text())
    assert [layer["number"] for layer in found["layers"]] == [0, 1]
    for layer in found["layers"]:
        assert len(layer["entropy"]) == len(layer["distance"]) == 4
        assert all(value > 0 for value in layer["entropy"])
        assert all(0 <= value <= 1 for value in layer["special"] or [])
    assert [row["row"] for row in found["rows"]] == [0, 1]
    row = found["rows"][0]
    weights = torch.tensor(row["layers"][0]["weights"])
    assert weights.shape == (len(row["names"]), len(row["names"]))
    assert (weights.sum(-1) - 1).abs().max() < 0.02
    assert row["image"] is None


def test_attention_of_pictures(tmp_path: Path) -> None:
    base = {"model_type": "vit", **SIZES, **RANGE, "image_size": 16, "patch_size": 4, "num_channels": 1}
    done = topwork.run(
        {
            "task": "image-classification",
            "base": {"config": base},
            "data": {"train": {"path": "sample:digits", "split": "train", "limit": 40}, "evaluate": {"cut": 10}},
            "stages": [{"attention": {"rows": 4, "overlays": 1}}, {"head_importance": {"rows": 6}}],
        },
        folder=tmp_path / "run",
        quiet=True,
    )
    folder = tmp_path / "run" / done.results[0]["folder"]
    found = json.loads((folder / "attention.json").read_text())
    row = found["rows"][0]
    assert (folder / row["image"]).is_file()
    height, width = row["grid"]
    assert len(row["layers"][0]["weights"]) == height * width
    for layer in found["layers"]:
        assert all(0 < value < (height**2 + width**2) ** 0.5 for value in layer["distance"])
        assert all(0 < value < 1 for value in layer["special"])


def test_options_are_checked_before_anything_runs(tmp_path: Path) -> None:
    for options in ({}, {"share": 0.1, "count": 2}, {"share": 1.5}, {"heads": {0: [1]}, "random": True}, {"shar": 1}):
        with pytest.raises(RecipeError):
            run(tmp_path, [{"prune_heads": options}])
    with pytest.raises(UsageError, match="head_importance"):
        run(tmp_path, [{"prune_heads": {"count": 1}}])


def test_what_chooses_sees_calibration_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of the stages that score, search or cut asks for an evaluation row; cut from the training rows when no
    others are given."""
    asked: list[str] = []
    own = topwork.Run.rows
    monkeypatch.setattr(topwork.Run, "rows", lambda run, role: asked.append(role) or own(run, role))
    stages = [
        {"head_importance": {"rows": 8}},
        {"mask_heads": {"count": 1}},
        {"prune_heads": {"count": 1, "importance": {"method": "leave_one_out"}}},
        {"prune_schedule": {"metric": 0.5, "step": 2, "iterative": True, "compare": ["taylor", "random"]}},
        {"prune_schedule": {"share": 0.5, "step": 1, "recover": {"steps": 1, "batch_size": 4}}},
    ]
    made = recipe(tmp_path, stages)
    made["data"] = {"train": made["data"]["train"], "evaluate": made["data"]["evaluate"], "calibrate": {"cut": 3}}
    done = topwork.run(made, folder=tmp_path / "run", quiet=True)
    assert "calibrate" in asked and not {"evaluate", "predict"} & set(asked)
    own_rows = {role: {row["text"] for row in own(done, role)} for role in ("calibrate", "train")}
    assert len(own_rows["calibrate"]) == 3
    assert not own_rows["calibrate"] & own_rows["train"]


def test_what_stages_read() -> None:
    assert HeadImportance().reads() == ("calibrate",)
    assert PruneHeads(share=0.1).reads() == ("calibrate",)
    assert PruneHeads(share=0.1, check=False, random=True).reads() == ()
    assert set(PruneHeads(share=0.1, compare_random=1).reads()) == {"calibrate", "evaluate"}
    assert MaskHeads(share=0.1, importance={"method": "taylor"}).reads() == ("calibrate",)
    assert PruneHeads.changes_model
    assert MaskHeads.changes_model
    assert not HeadImportance.changes_model
