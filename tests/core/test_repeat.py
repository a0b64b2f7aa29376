"""Several seeds and folds: the folds are a partition, the interval is Student's, and an interrupted call goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import engine_plugin
import numpy as np
import pytest
from scipy import stats

from topwork import RecipeError, UsageError
from topwork.cli import main
from topwork.data.cuts import choose_fold
from topwork.recipe.recipe import load_recipe
from topwork.runs.repeat import repeat_run

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    rows = [{**row, "speaker": index // 5} for index, row in enumerate(engine_plugin.point_rows(40))]
    datasets.Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return {
        "name": "again",
        "task": "points",
        "base": BASE,
        "data": {"train": "rows.jsonl", "evaluate": {"cut": 0.2}},
        "stages": [{"train": {"steps": 2, "batch_size": 8, "checkpoint_every": "never"}}, "evaluate"],
    }


def test_folds_are_a_partition_with_a_share_of_every_label():
    labels = ["a"] * 50 + ["b"] * 31 + ["c"] * 7
    parts = [choose_fold(88, (index, 5), [0, 1], labels) for index in range(5)]
    assert sorted(np.concatenate(parts)) == list(range(88))
    for label, total in (("a", 50), ("b", 31), ("c", 7)):
        counts = [sum(labels[row] == label for row in part) for part in parts]
        assert max(counts) - min(counts) <= 1 and sum(counts) == total


def test_folds_never_divide_a_group():
    groups = [index // 7 for index in range(90)]
    parts = [choose_fold(90, (index, 4), [0, 1], groups=groups) for index in range(4)]
    assert sorted(np.concatenate(parts)) == list(range(90))
    owners = [{groups[row] for row in part} for part in parts]
    assert sum(len(owner) for owner in owners) == len(set(groups))


def test_every_fold_is_evaluated_once(recipe, engine):
    done = repeat_run(load_recipe(recipe, plugins=engine), engine, folds=4, quiet=True)
    assert list(done.runs) == ["fold-1", "fold-2", "fold-3", "fold-4"]
    (accuracy,) = [spread for spread in done.spreads() if spread.name == "accuracy"]
    assert len(accuracy.values) == 4
    for index in range(4):
        log = (done.root / f"fold-{index + 1}" / "log.txt").read_text()
        assert f"10 of 40 training rows, fold {index + 1} of 4" in log


def test_the_interval_is_students_and_the_summary_lies_beside_the_runs(recipe, engine):
    done = repeat_run(
        load_recipe({**recipe, "seed": 3, "data": {**recipe["data"], "evaluate": {"cut": 0.5}}}, plugins=engine),
        engine,
        seeds=3,
        quiet=True,
    )
    assert list(done.runs) == ["seed-3", "seed-4", "seed-5"]
    summary = json.loads((done.root / "summary.json").read_text())
    (score,) = [line for line in summary["numbers"] if line["name"] == "score"]
    expected = stats.t.interval(0.95, 2, np.mean(score["values"]), stats.sem(score["values"]))
    assert score["interval"] == pytest.approx(expected)
    assert len(set(score["values"])) > 1


def test_the_same_folder_goes_on_and_another_recipe_is_refused(recipe, engine, tmp_path):
    checked = load_recipe(recipe, plugins=engine)
    first = repeat_run(checked, engine, folds=2, folder=tmp_path / "both", quiet=True)
    (tmp_path / "both" / "fold-2" / "stages" / "02-evaluate" / "result.json").unlink()
    second = repeat_run(checked, engine, folds=2, folder=tmp_path / "both", quiet=True)
    assert first.to_dict() == second.to_dict()
    other = load_recipe({**recipe, "seed": 9}, plugins=engine)
    with pytest.raises(UsageError, match="another recipe"):
        repeat_run(other, engine, folds=2, folder=tmp_path / "both", quiet=True)


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"seeds": 1}, {}, "1 is no number of repetitions"),
        ({"seeds": 2, "folds": 2}, {}, "either"),
        ({"folds": 3}, {"evaluate": "rows.jsonl"}, "rows of its own"),
        ({"folds": 41}, {}, "fewer rows than 41 folds"),
        ({"folds": 9}, {"evaluate": {"cut": {"share": 0.2, "by": "speaker"}}}, "fewer groups of `speaker` than 9"),
    ],
)
def test_what_cannot_be_repeated_is_refused(recipe, engine, options, data, message):
    checked = load_recipe({**recipe, "data": {**recipe["data"], **data}}, plugins=engine)
    with pytest.raises(Exception, match=message):
        repeat_run(checked, engine, quiet=True, **options)


@pytest.mark.parametrize(
    "cut",
    [
        {"folds": 3},
        {"share": 0.1, "folds": 3, "fold": 1},
        {"folds": 3, "fold": 4},
        {"by": "x"},
        {"folds": 1, "fold": 1},
    ],
)
def test_a_cut_is_a_share_or_a_fold(recipe, engine, cut):
    with pytest.raises(RecipeError, match="fold"):
        load_recipe({**recipe, "data": {**recipe["data"], "evaluate": {"cut": cut}}}, plugins=engine)


def test_a_cut_by_groups_of_a_local_table_is_checked(recipe, engine):
    data = {**recipe["data"], "evaluate": {"cut": {"share": 0.25, "by": "speaker"}}}
    assert load_recipe({**recipe, "data": data}, plugins=engine).data.evaluate.by == "speaker"


def test_the_command_prints_a_table(recipe, monkeypatch, capsys):
    Path("again.yaml").write_text(json.dumps(recipe))
    plugin = str(Path(engine_plugin.__file__))
    assert main(["--plugin", plugin, "--quiet", "run", "again.yaml", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 seeds") and Path(lines[-1], "summary.json").is_file()
    assert [line.split()[:2] for line in lines[1:-1]] == [["02-evaluate", "accuracy"], ["02-evaluate", "score"]]
    assert main(["--plugin", plugin, "run", "again.yaml", "--folds", "1"]) == 2
    assert "--folds" in capsys.readouterr().err


def test_repetitions_have_a_page_with_means_intervals_and_each_run(recipe, engine, capsys):
    from topwork import load_plugins

    pages = load_plugins(only=["train", "evaluate", "bases", "rows", "report"], extra=[engine_plugin])
    done = repeat_run(load_recipe(recipe, plugins=pages), pages, seeds=2, quiet=True)
    assert done.page == "report.html"
    page = (done.root / done.page).read_text(encoding="utf-8")
    spread = next(spread for spread in done.spreads() if spread.name == "accuracy")
    assert spread.interval is not None
    for name in done.runs:
        assert name in page
    cells = next(line for line in page.splitlines() if ">accuracy<" in line)
    values = [float(value) for value in re.findall(r'<data value="([^"]+)">', cells)]
    assert values == pytest.approx([spread.mean, *spread.interval, *spread.values])
    before = page
    (done.root / done.page).unlink()
    assert main(["report", str(done.root)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert (done.root / done.page).read_text(encoding="utf-8") == before
    (done.root / "summary.json").write_text("{")
    assert main(["report", str(done.root)]) == 2
    assert "damaged" in capsys.readouterr().err
