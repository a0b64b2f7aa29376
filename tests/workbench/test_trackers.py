"""Trackers: what they are told, what TensorBoard's own reader finds in their files, and failing ones."""

from __future__ import annotations

import datasets
import engine_plugin
import pytest
import torch
from tiny_bases import BASES

import topwork
from topwork import PluginError, RecipeError, UsageError, hookimpl, load_plugins
from topwork_workbench.trackers.content import MOST_ROWS, as_table, markdown
from topwork_workbench.trackers.tracker import Tracker

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}


class Printed:
    """Tracker of a plugin that keeps what it hears, and fails where a test says so."""

    heard: list[tuple]
    broken = ""

    @hookimpl
    def step_logged(self, run, stage, step, numbers):
        self.heard.append((run.folder.name, stage.name, step, dict(numbers)))
        if self.broken == "step_logged":
            raise ValueError("no room left")

    @hookimpl
    def run_done(self):
        self.heard.append(("done",))


class PrintedPlugin:
    """Plugin with one tracker."""

    @hookimpl
    def register_trackers(self):
        return {"printed": "Keep what a training logs."}

    @hookimpl
    def make_tracker(self, name):
        return self.make(name) if name == "printed" else None

    def make(self, name):
        return Printed()


@pytest.fixture
def engine(tmp_path, monkeypatch):
    datasets.Dataset.from_list(engine_plugin.point_rows(40)).to_json(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(Printed, "heard", [], raising=False)
    monkeypatch.setattr(Printed, "broken", "")
    return load_plugins(
        only=["train", "evaluate", "bases", "rows", "workbench"], extra=[engine_plugin, PrintedPlugin()]
    )


def recipe(*trackers):
    train = {"train": {"epochs": 2, "batch_size": 8, "evaluate_every": "epoch", "checkpoint_every": "never"}}
    return {
        "name": "tracked",
        "task": "points",
        "base": BASE,
        "data": {"train": "rows.jsonl", "calibrate": {"cut": 0.2}, "evaluate": {"cut": 0.2}},
        "track": list(trackers),
        "stages": [train, "evaluate", {"train": {"steps": 3, "batch_size": 8, "checkpoint_every": "never"}}],
    }


def test_a_tracker_of_any_plugin_hears_every_training(engine):
    run = topwork.run(recipe("printed"), plugins=engine, quiet=True)
    steps = [entry for entry in Printed.heard if entry != ("done",)]
    assert Printed.heard[-1] == ("done",)
    assert {entry[0] for entry in steps} == {"01-train", "03-train"}
    losses = [(entry[2], entry[3]["loss"]) for entry in steps if entry[0] == "01-train" and "loss" in entry[3]]
    assert [step for step, _ in losses] == sorted({step for step, _ in losses})
    assert losses[-1][0] == run.results[0]["result"]["steps"]
    assert [entry[3]["eval_accuracy"] for entry in steps if "eval_accuracy" in entry[3]][-1] >= 0
    before = len(Printed.heard)
    topwork.run({**recipe(), "name": "untracked"}, plugins=engine, quiet=True)
    assert len(Printed.heard) == before


def test_a_run_is_the_same_with_and_without_trackers(engine):
    with_them = topwork.run(recipe("printed", "tensorboard"), plugins=engine, quiet=True)
    without = topwork.run({**recipe(), "name": "untracked"}, plugins=engine, quiet=True)
    losses = [[record["result"].get("loss") for record in run.results] for run in (with_them, without)]
    assert losses[0] == losses[1]


def test_a_failing_tracker_warns_by_name_and_the_run_goes_on(engine, monkeypatch):
    monkeypatch.setattr(Printed, "broken", "step_logged")
    with pytest.warns(RuntimeWarning, match="plugin PrintedPlugin.*hook step_logged.*no room left") as warned:
        run = topwork.run(recipe("printed"), plugins=engine, quiet=True)
    assert len([warning for warning in warned if "no room left" in str(warning.message)]) == 1
    assert (run.root / "log.txt").read_text().count("no room left") == 1
    assert len(run.results) == 3
    monkeypatch.setenv("TOPWORK_STRICT", "1")
    with pytest.raises(PluginError, match="no room left") as caught:
        topwork.run({**recipe("printed"), "name": "strict"}, plugins=engine, quiet=True)
    assert "PrintedPlugin" in caught.value.place


def test_unknown_trackers_and_wrong_shapes_are_faults_of_the_recipe(engine):
    with pytest.raises(RecipeError, match=r"track.*`tensorbord`.*tensorboard"):
        topwork.run(recipe("tensorbord"), plugins=engine)
    with pytest.raises(RecipeError, match=r"track.*list of trackers' names"):
        topwork.run(recipe(3), plugins=engine)


def test_a_missing_package_is_named_with_its_extra_before_the_run(engine, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"tracker `mlflow`.*pip install 'topwork\[mlflow\]'"):
        topwork.run(recipe("mlflow"), plugins=engine)
    assert not [folder for folder in (tmp_path / "runs").glob("*") if folder.is_dir()]


def test_tensorboard_reads_what_the_result_says(engine):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = topwork.run(recipe("tensorboard"), plugins=engine, quiet=True)
    events = accumulator.EventAccumulator(str(run.root / "tensorboard"))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert {"01-train/loss", "03-train/loss", "01-train/eval_accuracy", "metrics/accuracy"} <= set(scalars)
    (measured,) = events.Scalars("metrics/accuracy")
    assert measured.step == 2
    assert measured.value == pytest.approx(run.results[1]["result"]["metrics"]["accuracy"], rel=1e-6)
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "task:" in text and "points" in text


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_the_other_libraries_take_a_run(name, engine, monkeypatch, tmp_path):
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPWORK_STRICT", "1")
        run = topwork.run(recipe(name), plugins=engine, quiet=True)
    assert len(run.results) == 3


def test_tables_become_markdown():
    assert table([{"a": 1, "b": "x|y"}]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"
    assert table({"labels": ["no", "yes"], "counts": [[3, 1], [0, 2]]}).splitlines()[2] == "| no | 3 | 1 |"
    assert table({"bleu": 3.5}).splitlines()[2] == "| bleu | 3.5 |"
    long = table({"columns": ["n"], "rows": [[index] for index in range(MOST_ROWS + 7)]})
    assert long.endswith("7 more rows")
    assert [as_table(content) for content in ("nrefs:1|case:mixed", 5, None, [], [1, 2], {})] == [None] * 6


def table(content):
    return markdown(*as_table(content))


class Kept:
    """Sink that keeps what it is given."""

    def __init__(self):
        self.content = {}

    def scalar(self, name, number, step):
        self.content[name] = number

    def text(self, name, text):
        self.content[name] = text

    def table(self, name, columns, rows):
        self.content[name] = [dict(zip(columns, row)) for row in rows]

    def image(self, name, file, caption):
        self.content[name] = (file.name, caption)

    def close(self, failed):
        self.content["closed"] = failed


def kept(task, base, **options):
    """What a tracker keeps of an evaluation of a task's own example rows."""
    torch.manual_seed(0)
    rows = topwork.load_plugins().task(task).example_rows()
    work = topwork.build(task, base, rows=rows, **options)
    tracker = Tracker(Kept())
    release = work.plugins.observe(tracker)
    try:
        work.apply("evaluate", {"evaluate": rows})
    finally:
        release()
    return tracker.sink.content


@pytest.mark.parametrize("task", ["text-classification", "image-classification", "audio-classification", "translation"])
def test_predictions_and_images_of_a_stage_are_kept_for_every_kind_of_task(task):
    content = kept(task, BASES[task], **({"generation": {"max_new_tokens": 3}} if task == "translation" else {}))
    name = next(name for name in content if name.endswith("-evaluate/predictions"))
    assert {"row", "truth", "prediction"} <= set(content[name][0])
    images = [value for value in content.values() if isinstance(value, tuple)]
    assert bool(images) == (task in ("image-classification", "audio-classification"))
    assert all(caption for _, caption in images)
    if task == "translation":
        assert "nrefs" in content[name.replace("predictions", "chrf_signature")]


def test_a_recipe_that_is_strict_ends_by_a_failing_observer(engine, monkeypatch):
    monkeypatch.setattr(Printed, "broken", "step_logged")
    with pytest.raises(PluginError, match="no room left") as caught:
        topwork.run({**recipe("printed"), "strict": True}, plugins=engine, quiet=True)
    assert "PrintedPlugin" in caught.value.place
    with pytest.warns(RuntimeWarning, match="`strict: true`"):
        topwork.run({**recipe("printed"), "strict": False, "name": "again"}, plugins=engine, quiet=True)
    with pytest.raises(RecipeError, match=r"strict.*true or false"):
        topwork.run({**recipe(), "strict": 3}, plugins=engine)
    loaded = topwork.load_recipe({**recipe(), "strict": True}, plugins=engine)
    assert (
        loaded.to_dict()["strict"] is True and "strict" not in topwork.load_recipe(recipe(), plugins=engine).to_dict()
    )


def test_a_tracker_that_cannot_be_made_warns_and_the_run_goes_on(engine, monkeypatch):
    def refuse(*_):
        raise ConnectionError("the server is down")

    monkeypatch.setattr(PrintedPlugin, "make", refuse)
    with pytest.warns(RuntimeWarning, match="hook make_tracker.*the server is down"):
        run = topwork.run(recipe("printed"), plugins=engine, quiet=True)
    assert len(run.results) == 3
    with pytest.raises(PluginError, match="the server is down"):
        topwork.run({**recipe("printed"), "strict": True, "name": "strict"}, plugins=engine, quiet=True)
