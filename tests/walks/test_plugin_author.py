"""The walk of a plugin author: one file with a task, a stage, a tracker and a source of rows."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import datasets
import pytest
from tiny_bases import BERT

import topwork
from topwork import load_plugins
from topwork.cli import main
from topwork.testing import check_task

pytestmark = pytest.mark.recipes

FILE = Path(__file__).parents[1] / "packages/topwork-riddles/topwork_riddles.py"
RECIPE = {
    "task": "multiple-choice",
    "base": BERT,
    "data": {"train": {"path": "sample:riddles"}, "evaluate": {"path": "sample:riddles"}},
    "track": ["notes"],
    "stages": [
        {"train": {"epochs": 30, "learning_rate": 0.003, "batch_size": 3, "checkpoint_every": "never"}},
        "evaluate",
        "linear_probe",
        {"train": {"steps": 2, "lora": {"r": 2}, "checkpoint_every": "never"}},
        "save",
        "report",
    ],
}


@pytest.fixture
def riddles(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    return importlib.import_module("topwork_riddles")


def test_the_task_keeps_the_contract(riddles, tmp_path) -> None:
    check_task(riddles.MultipleChoice, BERT, tmp_path / "model", plugins=load_plugins(extra=[riddles]))


def test_a_recipe_uses_all_that_the_file_brings(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    Path("recipe.yaml").write_text(json.dumps(RECIPE))  # JSON is YAML
    plugin = ["--plugin", str(FILE)]
    assert main([*plugin, "list", "stages", "linear_probe"]) == 0
    assert "role" in capsys.readouterr().out
    assert main([*plugin, "validate", "recipe.yaml"]) == 0
    capsys.readouterr()
    assert main([*plugin, "run", "recipe.yaml", "--json"]) == 0
    results = {record["stage"]: record["result"] for record in json.loads(capsys.readouterr().out)["results"]}
    root = Path(next(iter(Path("runs").iterdir())))
    assert results["evaluate"]["metrics"]["accuracy"] > 0.5
    assert results["linear_probe"]["measures"] == "probe"
    assert 0.5 < results["linear_probe"]["metrics"]["accuracy"] <= 1
    assert len(results["train"]["lora"]["modules"]) == 8
    assert (root / "notes.txt").read_text().startswith("train ")
    assert "linear_probe" in (root / "report.html").read_text().replace(" ", "_")
    row = {"question": "Who am I, Ada?", "choices": ["Ada", "nobody"]}
    work = topwork.load(root / "model", plugins=load_plugins(files=[str(FILE)]))
    assert set(work.predict(row)[0]) == {"choice", "text", "score"}
