"""What a run may write where, what `resume` takes over, and what is left of a run that fails before it begins."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import engine_plugin
import pytest
import tiny_bases
import yaml

import topwork
from topwork import CheckpointError, RecipeError, Stage, TopworkError, UsageError, hookimpl
from topwork.runs.records import read_record, write_record

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}


class Vandal(Stage):
    """Removes the run folder, or moves it."""

    name = "vandal"

    how: str = "remove"

    def __call__(self, run):
        if self.how == "remove":
            shutil.rmtree(run.root)
        else:
            run.root.rename(run.root.with_name("elsewhere"))
        return {}


class Bad:
    @hookimpl
    def register_stages(self):
        return [Vandal]


@pytest.fixture
def plugins():
    return topwork.load_plugins(extra=[engine_plugin, Bad()])


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("rows", 0), ("other", 1)):
        rows = engine_plugin.point_rows(30, seed)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "demo",
        "task": {"name": "points", "dropout": 0.1},
        "base": copy.deepcopy(BASE),
        "data": {"train": str(tmp_path / "rows.jsonl"), "evaluate": str(tmp_path / "rows.jsonl")},
        "stages": [{"train": {"steps": 6, "batch_size": 4}}, "evaluate", "save"],
    }


def start(recipe, plugins, **options):
    return topwork.run(recipe, plugins=plugins, quiet=True, **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"torch": "1.0"}}, "the run began with torch 1.0 and goes on with"),
        ({"versions": {"python": "2.7"}}, "the run began with python 2.7 and goes on with"),
        (
            {"plugins": {"rows": "topwork 0.0.1"}},
            "the run began with the plugin rows topwork 0.0.1 and goes on with topwork",
        ),
        ({"plugins": {"gone": "gone 1"}}, "the run began with the plugin gone gone 1 and goes on with not installed"),
        ({}, None),
    ],
)
def test_a_run_that_goes_on_under_other_versions_says_so(recipe, plugins, change, said) -> None:
    root = start(recipe, plugins).root
    facts = read_record(root / "run.json")
    for key, values in change.items():
        facts[key] |= values
    write_record(root / "run.json", facts)
    topwork.resume(root, plugins=plugins, quiet=True)
    doubts = [line for line in (root / "log.txt").read_text().splitlines() if "the run began with" in line]
    assert len(doubts) == (said is not None)
    assert said is None or said in doubts[0]


def test_a_plugin_file_that_was_changed_since_is_named(recipe, tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import topwork\n\n@topwork.hookimpl\ndef run_done(run):\n    pass\n")
    plugins = topwork.load_plugins(files=[file], extra=[engine_plugin])
    root = start(recipe, plugins).root
    file.write_text(file.read_text() + "    # mended\n")
    topwork.resume(root, plugins=topwork.load_plugins(files=[file], extra=[engine_plugin]), quiet=True)
    assert f"the plugin file {file} is not as it was when the run began" in (root / "log.txt").read_text()


# ---------------------------------------------------------------- resume compares the recipe (R2)

CHANGES = {
    "steps": (("stages", 0, "train", "steps"), 7, "`stages.train.steps` was 6 and is 7"),
    "batch size": (("stages", 0, "train", "batch_size"), 7, "`stages.train.batch_size` was 4 and is 7"),
    "learning rate": (("stages", 0, "train", "learning_rate"), 0.5, r"`stages.train.learning_rate` was .* and is 0.5"),
    "seed": (("seed",), 5, "`seed` was 0 and is 5"),
    "an option of the task": (("task", "dropout"), 0.5, r"`task.dropout` was 0.1 and is 0.5"),
    "the base": (("base", "config", "hidden_size"), 16, "`base.config.hidden_size` was 8 and is 16"),
    "training rows": (("data", "train", "path"), "other.jsonl", r"`data.train.path` was .* and is"),
    "a limit of training rows": (("data", "train", "limit"), 20, r"`data.train.limit` was null and is 20"),
    "bad rows": (("data", "on_error"), "skip", r"`data.on_error` was \"raise\" and is \"skip\""),
    "a cut": (("data", "evaluate"), {"cut": 0.5}, r"`data.evaluate"),
}


def change(root: Path, path, value) -> None:
    file = root / "recipe.yaml"
    whole = yaml.safe_load(file.read_text())
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(yaml.safe_dump(whole))


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_recipe_is_refused_after_the_stages_that_depend_on_it(name, recipe, plugins):
    path, value, text = CHANGES[name]
    root = start(recipe, plugins).root
    shutil.rmtree(root / "stages/03-save")
    change(root, path, value)
    with pytest.raises(UsageError, match=f"changed since stage 1, train, was finished: {text}"):
        topwork.resume(root, plugins=plugins, quiet=True)


ORDERS = {
    "a stage before them": (lambda stages: ["draw", *stages], "stage 1 was train, finished, and is draw"),
    "a stage between them": (lambda stages: [stages[0], "draw", *stages[1:]], "stage 2 was evaluate, .* is draw"),
    "another order": (lambda stages: [stages[1], stages[0], stages[2]], "stage 1 was train, finished, and is ev"),
    "a stage less": (lambda stages: [stages[0], stages[2]], "stage 2 was evaluate, finished, and is save"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_stages_in_another_order_are_no_new_run_in_the_same_folder(name, recipe, plugins):
    changed, text = ORDERS[name]
    root = start(recipe, plugins).root
    change(root, ("stages",), changed(recipe["stages"]))
    with pytest.raises(UsageError, match=text):
        topwork.resume(root, plugins=plugins, quiet=True)
    run = topwork.resume(root, plugins=plugins, quiet=True, redo=True)
    folders = [Path(record["folder"]).name for record in run.results]
    assert [path.name for path in sorted((root / "stages").iterdir())] == folders


def test_a_changed_recipe_is_refused_in_a_stage_that_has_begun(recipe, plugins):
    root = start(recipe, plugins).root
    for name in ("01-train", "02-evaluate", "03-save"):
        (root / "stages" / name / "result.json").unlink()
    change(root, ("stages", 0, "train", "batch_size"), 7)
    with pytest.raises(UsageError, match=r"changed since stage 1, train, began: `stages.train.batch_size` was 4"):
        topwork.resume(root, plugins=plugins, quiet=True)


def test_what_no_begun_stage_depends_on_may_change(recipe, plugins):
    recipe["stages"][1] = {"break": {"kind": "topwork"}}
    with pytest.raises(TopworkError, match=r"broken"):
        start(recipe, plugins)
    root = Path("runs/demo-1")
    change(root, ("stages", 2), {"save": {"folder": "kept"}})
    change(root, ("description",), "a demonstration")
    change(root, ("stages", 1), "evaluate")  # began under another name, and is another stage now
    resumed = topwork.resume(root, plugins=plugins, quiet=True)
    assert resumed.model_folder == root / "kept"


def test_runs_of_earlier_versions_compare_the_options_of_finished_stages(recipe, plugins):
    root = start(recipe, plugins).root
    facts = read_record(root / "run.json")
    del facts["begun"]
    write_record(root / "run.json", facts)
    topwork.resume(root, plugins=plugins, quiet=True)
    change(root, ("stages", 0, "train", "steps"), 7)
    with pytest.raises(UsageError, match=r"`stages.train.steps` was 6 and is 7"):
        topwork.resume(root, plugins=plugins, quiet=True)


# ---------------------------------------------------------------- where `save` writes (R3)


@pytest.mark.parametrize("folder", ["full", "a/b", "model", "./model", "x/../full"])
def test_a_folder_lies_in_the_run_folder(folder, recipe, plugins):
    recipe["stages"][-1] = {"save": {"folder": folder}}
    runs = [start(recipe, plugins) for _ in range(2)]
    for run in runs:
        assert run.model_folder.resolve() == (run.root / folder).resolve()
        assert (run.model_folder / "topwork.json").is_file()
        assert not Path(run.results[-1]["result"]["model_folder"]).is_absolute()
    assert runs[0].model_folder.resolve() != runs[1].model_folder.resolve()
    assert sorted(path.name for path in Path().iterdir()) == ["other.jsonl", "rows.jsonl", "runs"]


@pytest.mark.parametrize("folder", ["../x", "../../x", "a/../../x", "{tmp}/x", "~/topwork-x", ".."])
def test_a_folder_outside_is_refused_unless_it_is_asked_for(folder, recipe, plugins, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe["stages"] = [{"save": {"folder": folder.format(tmp=tmp_path)}}]
    with pytest.raises(UsageError, match=r"lies outside the run folder; name a folder inside it.*--save-outside"):
        start(recipe, plugins)
    if folder == "..":
        return
    run = start(recipe, plugins, save_outside=True)
    assert (run.model_folder / "topwork.json").is_file()
    assert run.results[-1]["result"]["model_folder"] == str(run.model_folder.absolute())


def test_the_folder_of_results_is_none_for_a_model(recipe, plugins):
    recipe["stages"] = [{"save": {"folder": "stages/01-save/model"}}]
    with pytest.raises(UsageError, match=r"holds the results of the run"):
        start(recipe, plugins)


def test_two_runs_never_write_the_same_folder(recipe, plugins, tmp_path):
    recipe["stages"] = [{"save": {"folder": str(tmp_path / "kept")}}, {"save": {"folder": str(tmp_path / "kept")}}]
    first = start(recipe, plugins, save_outside=True)  # one run may write it twice
    before = {file: file.read_bytes() for file in (tmp_path / "kept").iterdir()}
    with pytest.raises(UsageError, match=r"holds something that this run did not write"):
        start(recipe, plugins, save_outside=True)
    assert before == {file: file.read_bytes() for file in (tmp_path / "kept").iterdir()}
    (first.root / "stages/01-save/result.json").unlink()  # killed after the folder was written
    assert topwork.resume(first.root, plugins=plugins, quiet=True).model_folder == tmp_path / "kept"


def test_a_folder_that_another_process_writes_now_is_refused(recipe, plugins, tmp_path):
    from topwork.runs.lock import locking

    (tmp_path / "kept").mkdir()
    recipe["stages"] = [{"save": {"folder": str(tmp_path / "kept")}}]
    with locking(tmp_path / "kept"), pytest.raises(UsageError, match=r"another process is at work"):
        start(recipe, plugins, save_outside=True)


# ---------------------------------------------------------------- folders that vanish (R10), that are not begun (R12)


@pytest.mark.parametrize("how", ["remove", "move"])
@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_run_folder_that_is_removed_meanwhile_is_an_error(how, position, recipe, plugins):
    recipe["stages"].insert(position, {"vandal": {"how": how}})
    with pytest.raises(CheckpointError, match=r"the run folder was removed or moved while the run was going on"):
        start(recipe, plugins)
    assert not (Path("runs/demo-1/stages") / f"{position + 1:02d}-vandal" / "result.json").exists()


FAILURES = {
    "rows that are not there": ({"data": {"train": "nowhere.jsonl"}}, TopworkError),
    "an unknown column": ({"data": {"train": "rows.jsonl", "columns": {"x": "zzz"}}}, TopworkError),
    "a base that cannot be had": ({"base": {"model": "./nothing"}}, TopworkError),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_run_that_fails_before_its_first_stage_leaves_no_folder(name, recipe, plugins, capsys):
    changes, kind = FAILURES[name]
    with pytest.raises(kind):
        topwork.run({**recipe, **changes}, plugins=plugins)
    assert not list(Path("runs").glob("*")) if Path("runs").exists() else True
    assert "resume" not in capsys.readouterr().err


def test_a_bad_row_leaves_no_folder_and_no_advice(recipe, plugins, tmp_path, capsys):
    rows = [*engine_plugin.point_rows(9), {"x": None, "y": 1, "cost": 1}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe["data"]["check"] = "full"
    with pytest.raises(TopworkError, match=r"no coordinates"):
        topwork.run(recipe, plugins=plugins)
    assert not Path("runs/demo-1").exists() and "resume" not in capsys.readouterr().err


def test_what_lies_in_a_given_folder_stays(recipe, plugins, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(TopworkError):
        start({**recipe, "base": {"model": "./nothing"}}, plugins, folder=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


# ---------------------------------------------------------------- the end (R13), bounds (R14)


def test_a_finished_run_holds_its_model_once(recipe, plugins):
    run = start(recipe, plugins)
    assert [path.parent.name for path in run.root.rglob("topwork.safetensors")] == ["model"]
    assert not (run.root / "stages/01-train/model").exists()
    shutil.rmtree(run.root / "stages/02-evaluate")
    resumed = topwork.resume(run.root, plugins=plugins, quiet=True)
    assert resumed.results[1]["result"]["metrics"] == run.results[1]["result"]["metrics"]


@pytest.mark.parametrize("stages", [["evaluate"], ["save", {"train": {"steps": 2}}]])
def test_a_model_that_was_not_saved_afterwards_is_kept_for_resume(stages, recipe, plugins):
    recipe["stages"] = [recipe["stages"][0], *stages]
    run = start(recipe, plugins)
    kept = [path.parent.parent.name for path in run.root.glob("stages/*/model/topwork.safetensors")]
    assert kept == ["01-train" if stages == ["evaluate"] else "03-train"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 10**30), ("epochs", 1e300), ("workers", 500), ("batch_size", 10**12), ("accumulate", 10**12)],
)
def test_options_that_no_training_ends_with_are_refused_at_once(option, value, recipe, plugins):
    recipe["stages"] = [{"train": {option: value}}]
    with pytest.raises(RecipeError, match=option):
        start(recipe, plugins)


@pytest.mark.parametrize(
    ("stage", "cause"),
    [
        ({"train": {"steps": 1, "freeze": ["nosuch.layer"]}}, "no parameter is called `nosuch.layer`"),
        (
            {"train": {"steps": 1, "unfreeze": {1: ["nosuch"]}, "freeze": ["backbone"]}},
            "no parameter is called `nosuch`",
        ),
        ({"train": {"steps": 1, "freeze": ["all"]}}, "everything is frozen"),
        ({"prune_heads": {"heads": {7: [1]}, "check": False}}, "unknown attention layer"),
        ({"prune_heads": {"heads": {0: [9]}, "check": False}}, "9"),
        ({"mask_heads": {"layers": [9]}}, "unknown attention layer"),
    ],
)
def test_names_that_the_model_lacks_are_refused_before_the_first_stage(stage, cause, tmp_path):
    rows = [{"text": f"good {index}", "label": "ab"[index % 2]} for index in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": "text-classification",
        "base": copy.deepcopy(tiny_bases.BERT),
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "stages": [{"train": {"steps": 1}}, stage],
    }
    with pytest.raises(UsageError, match=rf"stage 2, .*{cause}"):
        topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
