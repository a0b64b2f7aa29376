"""Model folders that an earlier commit saved load, predict and lose as they did then.

`python tests/fences/make.py folders` writes them again. That is right only when old folders are given up on purpose:
what is in them is what users have.
"""

from __future__ import annotations

import json

import pytest
import torch

import topwork
from fences import rows, saved
from topwork.testing import same_predictions

#: relative to the largest value, for what sums in another order on another machine may change
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def recorded(name):
    return json.loads((saved.FOLDERS / name / saved.RECORD).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", saved.MADE)
def test_a_saved_folder_loads_and_answers_as_it_did(name, plugins) -> None:
    known = recorded(name)
    work = topwork.load(saved.FOLDERS / name, plugins=plugins)
    given = rows.from_json(known["rows"])
    tolerance = TOLERANCE[torch.float32]
    assert saved.losses(work, given) == pytest.approx(known["losses"], rel=tolerance)
    found = rows.from_json(rows.to_json(list(work.predict(given))))
    assert same_predictions(found, rows.from_json(known["predictions"]), tolerance), found
    assert topwork.alterations(work.model) == known["alterations"]


@pytest.mark.parametrize("name", saved.MADE)
def test_a_saved_folder_is_saved_again_with_the_same_tensors(name, plugins, tmp_path) -> None:
    from safetensors.torch import load_file

    topwork.load(saved.FOLDERS / name, plugins=plugins).save(tmp_path / "again")
    weights = json.loads((saved.FOLDERS / name / "topwork.json").read_text(encoding="utf-8"))["weights"]
    known, found = (load_file(folder / weights) for folder in (saved.FOLDERS / name, tmp_path / "again"))
    assert found.keys() == known.keys()
    assert all(torch.equal(found[tensor], known[tensor]) for tensor in known)


def test_a_saved_model_without_a_task_loads_and_answers_as_it_did() -> None:
    known = recorded(saved.PLAIN)
    model = topwork.from_pretrained(saved.FOLDERS / saved.PLAIN)
    assert model.dtype == torch.bfloat16
    assert same_predictions(saved.logits(model), known["logits"], TOLERANCE[model.dtype])
    assert topwork.alterations(model) == known["alterations"]


def test_there_is_a_folder_for_each_name_and_task(plugins) -> None:
    there = {folder.name for folder in saved.FOLDERS.iterdir()}
    assert there == {*saved.MADE, saved.PLAIN}
    tasks = {json.loads((saved.FOLDERS / name / "topwork.json").read_text())["task"] for name in saved.MADE}
    assert tasks == {name for name in plugins.tasks if plugins.owner("task", name).package == "topwork"}
