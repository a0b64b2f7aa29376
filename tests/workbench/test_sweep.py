"""Sweeps: spaces are read, trials are judged by calibrate rows, the best recipe runs, an interrupted sweep goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import datasets
import engine_plugin
import pytest

import topwork
from topwork import RecipeError, TopworkError, UsageError
from topwork.cli import main
from topwork_report.pages.sweep import _charts
from topwork_workbench.sweep.space import Between, Choices, grid, parse
from topwork_workbench.sweep.study import _Watcher

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
PLUGIN = ["--plugin", str(Path(engine_plugin.__file__)), "--quiet"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    datasets.Dataset.from_list(engine_plugin.point_rows(40)).to_json(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    content = {
        "name": "searched",
        "task": "points",
        "base": BASE,
        "data": {"train": "rows.jsonl", "evaluate": {"cut": 0.2}},
        "stages": [{"train": {"steps": 8, "batch_size": 8, "checkpoint_every": "never"}}, "evaluate"],
    }
    Path("points.yaml").write_text(json.dumps(content))
    return "points.yaml"


def swept(capsys, *arguments, code=0):
    assert main([*PLUGIN, "sweep", "points.yaml", "--json", *arguments]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else captured.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=8,16,32", Choices("a.b", ("8", "16", "32"))),
        ("a=1..5", Between("a", 1, 5, True, False)),
        ("a=0.0..0.3", Between("a", 0, 0.3, False, False)),
        ("a=log:1e-5..1e-3", Between("a", 1e-5, 1e-3, False, True)),
        ("a=-2..2", Between("a", -2, 2, True, False)),
        ("a=.5..1.", Between("a", 0.5, 1, False, False)),
        ("a=bert-base,gpt2", Choices("a", ("bert-base", "gpt2"))),
    ],
)
def test_what_a_search_means(text, expected):
    assert parse([text]) == [expected]


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "a=1", "a=1,1", "a=5..1", "a=log:0..1", "a=x..y", "a=1,,2", "a=0..inf"]
)
def test_what_is_no_search_is_refused(text):
    with pytest.raises(UsageError):
        parse([text] if text else [])


def test_a_key_twice_and_a_grid_of_intervals_are_refused():
    with pytest.raises(UsageError, match="twice"):
        parse(["a=1,2", "a=3,4"])
    with pytest.raises(UsageError, match="single values of `a`"):
        grid(parse(["a=1..3"]))


def test_a_grid_is_searched_whole_and_the_best_recipe_runs(recipe, capsys):
    shown = swept(
        capsys, "-s", "stages.train.learning_rate=1e-6,0.05", "-s", "stages.train.batch_size=4,8", "--sampler", "grid"
    )
    assert len(shown["trials"]) == 4
    tried = {
        (trial["options"]["stages.train.learning_rate"], trial["options"]["stages.train.batch_size"])
        for trial in shown["trials"]
    }
    assert tried == {("1e-6", "4"), ("1e-6", "8"), ("0.05", "4"), ("0.05", "8")}
    best = max(shown["trials"], key=lambda trial: trial["value"])
    written = topwork.load_recipe(shown["best"], plugins=topwork.load_plugins(extra=[engine_plugin]))
    assert str(written.stages[0].batch_size) == best["options"]["stages.train.batch_size"]
    kept = [folder.name for folder in Path(shown["folder"]).glob("trial-*")]
    assert len(kept) == 1
    # judged on rows that the training did not see and that the evaluate rows do not contain
    log = next(Path(shown["folder"]).glob("trial-*/seed-*/log.txt")).read_text()
    assert "calibrate: 3 of 32 training rows" in log


def test_a_sweep_goes_on_and_refuses_another_one(recipe, capsys):
    search = ["-s", "stages.train.learning_rate=log:1e-4..0.1", "--folder", "here"]
    first = swept(capsys, *search, "--trials", "2", "--seeds", "2")
    second = swept(capsys, *search, "--trials", "3", "--seeds", "2")
    assert second["trials"][:2] == first["trials"] and len(second["trials"]) == 3
    assert [len(trial["seeds"]) for trial in second["trials"]] == [2, 2, 2]
    assert "another sweep" in swept(capsys, "-s", "stages.train.steps=1,2", "--folder", "here", code=2)
    assert "another sweep" in swept(capsys, *search, "--trials", "4", "--seeds", "3", code=2)
    assert "another sweep" in swept(capsys, *search, "--seeds", "2", "-o", "stages.train.batch_size=4", code=2)


def test_a_sweep_has_a_page_with_its_trials_and_charts(recipe, capsys):
    search = ["-s", "stages.train.learning_rate=log:1e-5..0.1", "-s", "stages.train.steps=2..4", "--seeds", "2"]
    shown = swept(capsys, *search, "--trials", "2", "--sampler", "random")
    page = Path(shown["page"]).read_text(encoding="utf-8")
    assert "Sweep of points" in page and "best so far" in page
    for trial in shown["trials"]:
        assert f"{next(iter(trial['seeds'].values())):.4g}" in page
    assert "<script" not in page and not re.search(r'(src|href)="https?://', page)
    about = json.loads((Path(shown["folder"]) / "trials.json").read_text())
    best = max(about["trials"], key=lambda trial: trial["value"])["value"]
    assert about["trials"][about["best"] - 1]["value"] == best and about["higher_is_better"] is True
    Path(shown["page"]).unlink()
    assert main(["report", shown["folder"]]) == 0 and Path(shown["page"]).is_file()
    (Path(shown["folder"]) / "trials.json").write_text('{"trials": [5]}')
    assert main(["report", shown["folder"]]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("higher", "reported"), [(True, 0.25), (False, -0.25)])
def test_a_trial_is_stopped_by_the_direction_of_its_metric(higher, reported):
    class Metric:
        primary, higher_is_better = "wer", higher

    class Trial:
        reports: ClassVar[list] = []

        def report(self, value, step):
            self.reports.append((value, step))

        def should_prune(self):
            return False

    run = SimpleNamespace(task=SimpleNamespace(metric=Metric))
    trial: Any = Trial()
    _Watcher(trial).step_logged(run, {"eval_wer": 0.25})
    assert trial.reports.pop() == (reported, 0)


def test_a_trial_that_falls_behind_is_stopped(recipe, capsys):
    options = ["-o", "stages.train.evaluate_every=2", "-o", "stages.train.steps=6", "--sampler", "grid", "--prune"]
    rates = "stages.train.learning_rate=0.05,0.06,0.07,0.08,1e-9,1e-10"
    states = [trial["state"] for trial in swept(capsys, "-s", rates, *options)["trials"]]
    assert states.count("complete") >= 3 and len(states) == 6
    message = swept(capsys, "-s", "stages.train.steps=1,2", "--prune", "--folder", "never", code=2)
    assert "evaluate_every=epoch" in message


def test_wrong_keys_end_the_sweep_at_once(recipe, capsys):
    assert "lerning_rate" in swept(capsys, "-s", "stages.train.lerning_rate=1,2", code=2)
    assert "no sampler `best`" in swept(capsys, "-s", "stages.train.steps=1,2", "--sampler", "best", code=2)


def test_the_extra_is_named(recipe, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert "topwork[sweep]" in swept(capsys, "-s", "stages.train.steps=1,2", code=2)
    assert issubclass(RecipeError, TopworkError)


def test_numbers_far_apart_are_drawn_by_their_logarithms():
    done = [{"trial": index, "value": index / 4, "options": {"a": 10.0**-index, "b": index}} for index in (1, 2, 4)]
    titles = [chart["x_title"] for chart in _charts({"metric": "f1"}, done, 1)]
    assert titles == ["trial", "log10 of a", "b"]
    worse = _charts({"metric": "wer"}, done, -1)[0]["series"]["best so far"]
    assert worse == [(1.0, 0.25), (2.0, 0.25), (4.0, 0.25)]
