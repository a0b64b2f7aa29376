"""Run folders: what lies in them, how a run goes on, what observers hear, and that the same seed gives the same."""

from __future__ import annotations

import json
import random
import shutil

import datasets
import engine_plugin
import numpy as np
import pytest
import torch

import topwork
from topwork import DataError, TopworkError, UsageError, hookimpl
from topwork.console import numbers_in
from topwork.runs.records import stage_seed

ROWS = engine_plugin.point_rows(60)
BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
TRAIN = {"train": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01}}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of which the tests change what they need; the working directory is empty."""
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "rows.jsonl")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return {
        "name": "demo",
        "task": {"name": "points", "dropout": 0.1, "augment": True},
        "base": BASE,
        "data": {"train": str(tmp_path / "rows.jsonl"), "evaluate": {"cut": 0.3}},
        "stages": [
            TRAIN,
            "evaluate",
            {"train": {**TRAIN["train"], "freeze": ["backbone"]}},
            "draw",
            "save",
            "evaluate",
        ],
    }


def started(recipe, engine, **options):
    return topwork.run(recipe, plugins=engine, quiet=True, **options)


def results(run):
    """What may be compared between runs: everything but times and places."""
    timed = ("items_per_second", "rows_per_second")
    return [{k: v for k, v in record["result"].items() if k not in timed} for record in run.results]


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def same(first, second):
    return all(torch.equal(first.state_dict()[name], tensor) for name, tensor in second.state_dict().items())


def test_what_a_run_leaves_behind(recipe, engine):
    recipe["stages"].insert(2, {"predict": {"role": "evaluate"}})
    run = started(recipe, engine)
    root = run.root
    assert root.as_posix() == "runs/demo-1" and started(recipe, engine).root.as_posix() == "runs/demo-2"
    assert listing(root) == ["log.txt", "model", "recipe.yaml", "run.json", "stages"]
    names = ["01-train", "02-evaluate", "03-predict", "04-train", "05-draw", "06-save", "07-evaluate"]
    assert listing(root / "stages") == names
    assert listing(root / "stages/01-train") == ["result.json"]  # neither checkpoints nor the model of an earlier stage
    assert listing(root / "stages/04-train") == ["result.json"]  # what `save` wrote is the same model
    assert listing(root / "stages/02-evaluate") == ["pictures.json", "predictions.json", "result.json"]
    assert listing(root / "stages/03-predict") == ["predictions.jsonl", "result.json"]
    first = json.loads((root / "stages/01-train/result.json").read_text())
    assert set(first) == {"stage", "index", "folder", "seconds", "result", "options", "outputs", "checksum"}
    assert (first["stage"], first["index"], first["folder"]) == ("train", 0, "stages/01-train")
    assert first["options"]["epochs"] == 2 and first["result"]["steps"] == 12
    lines = [json.loads(line) for line in (root / "stages/03-predict/predictions.jsonl").read_text().splitlines()]
    numbers = [line["row"] for line in lines]  # in the file that the rows were cut from
    assert len(numbers) == 18 and numbers == sorted(set(numbers)) and numbers[-1] > 18
    pictures = json.loads((root / "stages/02-evaluate/pictures.json").read_text())
    assert len(pictures) == 12 and set(pictures[0]) == {"row", "caption", "badness", "image", "text"}
    assert "evaluate: 18 of 60 training rows" in (root / "log.txt").read_text()
    assert run.model_folder == root / "model"
    assert topwork.load(root / "model", plugins=engine).evaluate(run.rows("evaluate")) == results(run)[-1]["metrics"]


def test_versions_and_the_whole_recipe_are_recorded(recipe, engine):
    root = started(recipe, engine).root
    facts = json.loads((root / "run.json").read_text())
    assert facts["versions"]["torch"] == torch.__version__ or torch.__version__.startswith(facts["versions"]["torch"])
    assert {"python", "transformers", "topwork", "datasets"} <= set(facts["versions"])
    assert (facts["seed"], facts["processes"], facts["task"], facts["name"]) == (0, 1, "points", "demo")
    assert "train" in facts["plugins"]
    again = topwork.load_recipe(root / "recipe.yaml", (), engine)
    assert again.to_dict() == topwork.load_recipe(recipe, (), engine).to_dict()
    assert again.to_dict()["stages"][0]["train"]["schedule"] == "linear"


def test_the_same_seed_gives_the_same_numbers(recipe, engine):
    first = started(recipe, engine)
    random.seed(123), np.random.seed(5), torch.manual_seed(77)  # whatever went before
    second, other = started(recipe, engine), started({**recipe, "seed": 1}, engine)
    assert results(first) == results(second) and same(first.model, second.model)
    assert results(first)[3] != results(other)[3] and not same(first.model, other.model)
    assert len({stage_seed(0, index) for index in range(50)} | {stage_seed(1, index) for index in range(50)}) == 100


def test_a_stage_draws_the_same_wherever_it_began(recipe, engine):
    recipe["stages"] = ["draw", "draw", TRAIN, "draw"]
    run = started(recipe, engine)
    drawn = [record["result"]["drawn"] for record in run.results if record["stage"] == "draw"]
    assert len({tuple(numbers) for numbers in drawn}) == 3
    for number in (1, 2, 3):
        shutil.rmtree(run.root / f"stages/0{number + 1}-{run.results[number]['stage']}")
    assert results(topwork.resume(run.root, plugins=engine, quiet=True)) == results(run)


@pytest.mark.parametrize("kept", range(6))
def test_going_on_after_any_stage_gives_the_same(recipe, engine, tmp_path, kept):
    """A run that fails after `kept` stages and goes on ends as one that did not."""
    whole = started(recipe, engine)
    gate = tmp_path / "gate"
    recipe["stages"].insert(kept, {"break": {"unless": str(gate)}})
    with pytest.raises(TopworkError) as caught:
        started(recipe, engine, folder=tmp_path / "broken")
    assert str(caught.value) == f"stage {kept + 1}, break, here: broken; mend it"
    gate.touch()
    resumed = topwork.resume(tmp_path / "broken", plugins=engine, quiet=True)
    found = [entry for entry in results(resumed) if "broke" not in entry]
    if kept <= 3:  # the seeds of later stages come from their places, which the inserted stage moves
        whole = started(recipe, engine, folder=tmp_path / "whole")
        assert results(resumed) == results(whole)
    else:
        assert found[:4] == results(whole)[:4]
    assert same(whole.model, resumed.model)
    assert [record["index"] for record in resumed.results] == list(range(7))


def test_a_kill_while_a_stage_is_recorded_loses_nothing(recipe, engine, monkeypatch):
    from topwork.runs import run as runs

    class Killed(BaseException):
        pass

    whole = started(recipe, engine)
    real = runs.write_record

    def killed(target, value):
        if target.parent.name == "03-train":
            raise Killed
        real(target, value)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_record", killed)
        with pytest.raises(Killed):
            started(recipe, engine)
    root = whole.root.with_name("demo-2")
    assert (root / "stages/01-train/model").is_dir() and (root / "stages/03-train/checkpoints").is_dir()
    resumed = topwork.resume(root, plugins=engine, quiet=True)
    assert results(resumed) == results(whole) and same(whole.model, resumed.model)


def test_a_model_that_is_gone_is_not_made_up(recipe, engine):
    recipe["stages"] = [stage for stage in recipe["stages"] if stage != "save"]
    root = started(recipe, engine).root
    shutil.rmtree(root / "stages/03-train/model")
    shutil.rmtree(root / "stages/05-evaluate")
    with pytest.raises(UsageError, match="the model that the finished stages left is gone"):
        topwork.resume(root, plugins=engine, quiet=True)


def test_resuming_a_finished_run_changes_nothing(recipe, engine, tmp_path, monkeypatch):
    run = started(recipe, engine)
    times = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.json")}
    root = run.root.resolve()
    monkeypatch.chdir(tmp_path)  # from elsewhere
    again = topwork.resume(root, plugins=engine, quiet=True)
    assert results(again) == results(run) and same(again.model, run.model)
    assert again.model_folder == root / "model"
    assert "every stage of this run is done" in (root / "log.txt").read_text()
    monkeypatch.chdir(tmp_path / "work")
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_folders_are_not_used_twice(recipe, engine, tmp_path):
    recipe["stages"] = ["draw"]
    started(recipe, engine, folder=tmp_path / "mine")
    with pytest.raises(UsageError, match=r"holds a run already; `topwork resume .*mine`"):
        started(recipe, engine, folder=tmp_path / "mine")
    with pytest.raises(UsageError, match="no run folder"):
        topwork.resume(tmp_path / "work", plugins=engine)
    recipe.pop("name")
    assert started(recipe, engine).root.as_posix() == "runs/points-1"


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("topwork", TopworkError, "stage 2, break, here: broken; mend it"),
        ("data", DataError, "stage 2, break, row 7, column 'x': bad row"),
    ],
)
def test_an_error_names_its_stage(recipe, engine, kind, error, text):
    recipe["stages"] = ["draw", {"break": {"kind": kind}}]
    with pytest.raises(error) as caught:
        started(recipe, engine)
    assert str(caught.value) == str(caught.value) == text


def test_a_foreign_exception_names_its_stage_too(recipe, engine):
    recipe["stages"] = ["draw", {"break": {"kind": "other"}}]
    with pytest.raises(RuntimeError, match="boom") as caught:
        started(recipe, engine)
    *brought_by, where = caught.value.__notes__
    assert where == "in stage 2, break"
    assert [note.partition(" is of plugin ")[0] for note in brought_by] == ["stage `break`", "task `points`"]


class Hears:
    """An observer."""

    def __init__(self):
        self.news = []

    @hookimpl
    def run_started(self, run):
        self.news.append("run_started")

    @hookimpl
    def stage_started(self, run, stage, index):
        assert run.folder.is_dir() and not run.model.training
        self.news.append(f"stage_started {index} {stage.name}")

    @hookimpl
    def stage_done(self, run, stage, index, result):
        assert json.loads((run.folder / "result.json").read_text())["result"] == result == run.results[-1]["result"]
        self.news.append(f"stage_done {index} {stage.name}")

    @hookimpl
    def run_failed(self, run, error):
        self.news.append(f"run_failed {error.cause}")

    @hookimpl
    def run_done(self, run):
        self.news.append("run_done")


def test_observers_hear_everything_in_order(recipe):
    hears = Hears()
    plugins = topwork.load_plugins(extra=[engine_plugin, hears])
    recipe["stages"] = ["draw", TRAIN]
    started(recipe, plugins)
    stages = ["stage_started 0 draw", "stage_done 0 draw", "stage_started 1 train", "stage_done 1 train"]
    assert hears.news == ["run_started", *stages, "run_done"]
    hears.news.clear()
    recipe["stages"] = ["draw", "break"]
    with pytest.raises(TopworkError):
        started(recipe, plugins)
    assert hears.news == ["run_started", *stages[:2], "stage_started 1 break", "run_failed broken"]


def test_skipped_rows_are_counted_in_every_result(recipe, engine, tmp_path):
    spoilt = [{**row, "x": None} if number % 20 == 3 else row for number, row in enumerate(ROWS)]
    datasets.Dataset.from_list(spoilt).to_json(tmp_path / "spoilt.jsonl")
    recipe["data"] = {"train": recipe["data"]["train"], "evaluate": str(tmp_path / "spoilt.jsonl"), "on_error": "skip"}
    recipe["stages"] = ["evaluate", {"predict": {"role": "evaluate"}}, {"evaluate": {"limit": 5, "pictures": 0}}]
    run = started(recipe, engine)
    assert [entry["skipped"] for entry in results(run)] == [3, 3, 1]
    assert [entry["rows"] for entry in results(run)] == [57, 57, 4]
    assert [note["row"] for note in results(run)[0]["skipped_rows"]] == [3, 23, 43]
    lines = (run.root / "stages/02-predict/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [number for number in range(60) if number % 20 != 3]
    recipe["data"]["on_error"] = "raise"
    with pytest.raises(
        DataError, match=r"stage 1, evaluate, data.evaluate, .*spoilt.jsonl:4, row 3, column 'x': no coordinates"
    ):
        started(recipe, engine)


class Drawing(engine_plugin.Points):
    """Writes each prediction as a file."""

    name = "drawing"

    def write(self, prediction, folder, name):
        (folder / f"{name}.txt").write_text(str(prediction["label"]))
        return {"file": f"{name}.txt", "nothing": float("nan")}


class Registers:
    @hookimpl
    def register_tasks(self):
        return [Drawing]


def test_predictions_that_are_files(recipe, tmp_path):
    plugins = topwork.load_plugins(extra=[Registers()])
    recipe["task"] = "drawing"
    recipe["data"]["predict"] = recipe["data"]["train"]
    recipe["stages"] = [{"predict": {"limit": 11, "batch_size": 4}}]
    root = started(recipe, plugins).root
    names = [f"{number:08d}.txt" for number in range(11)]
    assert listing(root / "stages/01-predict/files") == names
    lines = (root / "stages/01-predict/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == [{"file": name, "nothing": None} for name in names]


def test_shares_of_several_processes_are_merged_in_order(tmp_path):
    from topwork.stages.predict import in_order

    shares = [tmp_path / f"{index}" for index in range(3)]
    for index, share in enumerate(shares):
        share.write_text("".join(json.dumps({"row": row}) + "\n" for row in range(index, 20, 3)))
    assert [json.loads(line)["row"] for line in in_order(shares)] == list(range(20))


def test_save_where_the_recipe_says(recipe, engine, tmp_path):
    recipe["stages"] = ["evaluate", {"save": {"folder": str(tmp_path / "kept/model")}}]
    run = started(recipe, engine, save_outside=True)
    assert run.model_folder == tmp_path / "kept/model" and (run.model_folder / "topwork.json").is_file()
    assert f"{results(run)[0]['metrics']['accuracy']:.4f}" in (run.model_folder / "README.md").read_text()
    assert topwork.resume(run.root, plugins=engine, quiet=True).model_folder == tmp_path / "kept/model"


def test_numbers_of_the_summary():
    result = {"metrics": {"accuracy": 0.5, "f1": 0.25}, "rows": 3, "flag": True, "text": "x"}
    assert numbers_in(result) == "accuracy 0.5, f1 0.25, rows 3"
    assert numbers_in(result, ("f1",)) == "f1 0.25"


def test_the_api_does_the_same_without_a_recipe(engine):
    work = topwork.build("points", BASE, rows=ROWS, plugins=engine, seed=3)
    again = topwork.build("points", BASE, rows=datasets.Dataset.from_list(ROWS), plugins=engine, seed=3)
    assert same(work.model, again.model)
    before = {name: tensor.clone() for name, tensor in work.model.state_dict().items()}
    work.train(ROWS, epochs=20, batch_size=8, learning_rate=0.03)
    assert any(not torch.equal(before[name], tensor) for name, tensor in work.model.state_dict().items())
    assert work.evaluate(ROWS)["accuracy"] > 0.95
    assert len(work.predict(ROWS[0])) == 1 and work.predict(iter(ROWS[:3])) == work.predict(ROWS[:3])
    assert work.predict([{"place": ROWS[0]["x"]}], columns={"x": "place"}) == work.predict(ROWS[0])
    with pytest.raises(UsageError, match="did you mean `train`"):
        work.apply("trian", {})
    with pytest.raises(UsageError, match="epoch"):
        work.train(ROWS, epoch=3)
    with pytest.raises(TopworkError, match="batch"):
        work.predict(ROWS, batch=3)


class Plain(engine_plugin.Points):
    """Points drawn by nobody: its drawing does not say how bad a prediction is."""

    name = "plain-points"
    draw = topwork.Task.draw

    def predict(self, model, batch):
        wrong = {3, 17, 29}  # by row, whatever the model says
        return [
            {"label": item.extra if item.row not in wrong else 1 - item.extra, "score": 1.0} for item in batch.items
        ]


class BringsPlain:
    @hookimpl
    def register_tasks(self):
        return [Plain]


def test_the_worst_predictions_are_drawn_first_also_by_a_task_that_does_not_rank_them(recipe):
    plugins = topwork.load_plugins(extra=[engine_plugin, BringsPlain()])
    recipe["task"] = "plain-points"
    recipe["stages"] = [{"evaluate": {"role": "train", "pictures": 4}}, "report"]
    run = started(recipe, plugins)
    drawn = json.loads((run.root / "stages/01-evaluate/pictures.json").read_text())
    assert [entry["badness"] for entry in drawn] == [0, 0, 0, -1]  # three are wrong
    assert "Predictions by accuracy of the row alone, lowest first" in (run.root / "report.html").read_text()
    recipe["stages"] = [{"evaluate": {"role": "train", "pictures": 2, "limit": 3}}, "report"]  # all of them right
    page = (started(recipe, plugins).root / "report.html").read_text()
    assert "<h3>Predictions, in the order of the rows</h3>" in page


def test_predictions_are_listed_by_their_loss_where_it_is_measured(recipe, engine):
    recipe["stages"] = [{"evaluate": {"role": "train", "loss": True, "listed": 7, "pictures": 2}}, "report"]
    run = started(recipe, engine)
    table = json.loads((run.root / "stages/01-evaluate/predictions.json").read_text())
    losses = [line["facts"]["loss"] for line in table["predictions"]]
    assert table["order"] == "loss, largest first" and table["rows"] == 42 and len(losses) == 7
    assert losses == sorted(losses, reverse=True) and len(set(losses)) > 1
    assert [line["picture"] for line in table["predictions"]] == [0, 1, *[None] * 5]
    drawn = json.loads((run.root / "stages/01-evaluate/pictures.json").read_text())
    assert [card["row"] for card in drawn] == [line["row"] for line in table["predictions"][:2]]
    assert losses[0] > results(run)[0]["metrics"]["loss"] > 0
    assert "Predictions by loss, largest first" in (run.root / "report.html").read_text()
