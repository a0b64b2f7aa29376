"""The recipe that `topwork new TASK --data FILE` writes runs as it stands, for every installed task."""

from __future__ import annotations

import copy
from pathlib import Path

import datasets
import pytest
from tiny_bases import BASES

import topwork
from topwork import load_plugins
from topwork.cli import main
from topwork.recipe.yaml import dump

PLUGINS = load_plugins()


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", sorted(PLUGINS.tasks))
def test_the_starter_for_a_file_validates_and_runs(task, tmp_path, capsys) -> None:
    """Rows of the obvious shape: the task's own examples, a few times over, in one parquet file."""
    kind = PLUGINS.task(task)
    rows = datasets.Dataset.from_list(kind.example_rows() * 3)
    rows.to_parquet("rows.parquet")
    assert main(["new", task, "x.yaml", "--data", "rows.parquet", "--base", "some/model"]) == 0
    assert main(["validate", "x.yaml"]) == 0, capsys.readouterr().err
    text = Path("x.yaml").read_text()
    base = copy.deepcopy(BASES[task])
    for role in kind.roles if len(kind.roles) > 1 else ("base",):
        text = text.replace("{model: some/model}", dump(base[role] if len(kind.roles) > 1 else base, flow=True), 1)
    Path("x.yaml").write_text(text)
    run = topwork.run("x.yaml", overrides=["stages.train.steps=1", "stages.train.batch_size=4"], quiet=True)
    assert [record["stage"] for record in run.results] == ["train", "evaluate", "save", "report"]
