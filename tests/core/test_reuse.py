"""Finished stages are kept where nothing that they depend on was changed: `resume --redo`, `run --from`."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import engine_plugin
import pytest
import torch
import yaml

import topwork
from topwork import UsageError
from topwork.cli.app import main
from topwork.runs.records import read_record, write_record

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
PLUGIN = Path(engine_plugin.__file__)


def write_rows(file: str, seed: int = 0, count: int = 30) -> None:
    rows = engine_plugin.point_rows(count, seed)
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "evaluate"):
        write_rows(f"{name}.jsonl", len(name))
    train = {"steps": 6, "batch_size": 4}
    return {
        "name": "demo",
        "task": {"name": "points", "dropout": 0.1},
        "base": copy.deepcopy(BASE),
        "data": {"train": "train.jsonl", "evaluate": "evaluate.jsonl"},
        "stages": [{"train": train}, "evaluate", {"train": {**train, "steps": 4}}, "evaluate", "save"],
    }


def start(recipe, plugins, **options):
    return topwork.run(recipe, plugins=plugins, quiet=True, **options)


def numbers(run) -> list[Any]:
    timed = ("items_per_second", "rows_per_second", "seconds", "megabytes")
    return [{key: value for key, value in record["result"].items() if key not in timed} for record in run.results]


def same(first, second) -> bool:
    left, right = (topwork.load(run.model_folder, plugins=run.plugins).model.state_dict() for run in (first, second))
    return numbers(first) == numbers(second) and all(torch.equal(left[name], right[name]) for name in left)


def first_training(recipe) -> None:
    recipe["stages"][0]["train"]["steps"] = 7


def second_training(recipe) -> None:
    recipe["stages"][2]["train"]["learning_rate"] = 0.01


def evaluation(recipe) -> None:
    recipe["stages"][3] = {"evaluate": {"limit": 5}}


def early_evaluation(recipe) -> None:
    recipe["stages"][1] = {"evaluate": {"limit": 5}}


def seed(recipe) -> None:
    recipe["seed"] = 3


def task(recipe) -> None:
    recipe["task"]["dropout"] = 0.5


def evaluate_rows(recipe) -> None:
    write_rows("evaluate.jsonl", 5)


def train_rows(recipe) -> None:
    write_rows("train.jsonl", 5, 20)


def a_letter(recipe) -> None:
    """The rows keep their number and the file its size."""
    text = Path("train.jsonl").read_text()
    digit = next(index for index, letter in enumerate(text) if letter in "123")
    Path("train.jsonl").write_text(f"{text[:digit]}4{text[digit + 1 :]}")


def later(recipe) -> None:
    recipe["stages"].insert(4, {"evaluate": {"limit": 3}})


#: change -> finished stages that `--from` takes over
CHANGES = {
    first_training: 0,
    second_training: 0,  # the first training's model is not kept when the second one is done
    evaluation: 3,
    early_evaluation: 0,
    seed: 0,
    task: 0,
    evaluate_rows: 0,
    train_rows: 0,
    a_letter: 0,
    later: 4,
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_depends_on_a_change_is_done_again_and_the_rest_is_kept(change, recipe, engine, tmp_path):
    before = start(recipe, engine)
    write = {path: Path(path).read_bytes() for path in ("train.jsonl", "evaluate.jsonl")}
    change(recipe)
    fresh = start(recipe, engine, folder="fresh")
    # another run takes over what did not change
    other = start(recipe, engine, folder="other", reuse=before.root)
    assert same(other, fresh)
    assert json.loads(Path("other/run.json").read_text())["from"]["stages"] == CHANGES[change]
    assert f"stages 1 to {CHANGES[change]} are those of" in Path("other/log.txt").read_text() or not CHANGES[change]
    # the run itself refuses, and goes on when it may do stages again
    facts = yaml.safe_load((before.root / "recipe.yaml").read_text())
    changed = topwork.load_recipe(recipe, plugins=engine).to_dict()
    (before.root / "recipe.yaml").write_text(yaml.safe_dump({**facts, **changed}))
    if change is not later:
        with pytest.raises(UsageError, match=r"changed since stage \d.*--redo"):
            topwork.resume(before.root, plugins=engine, quiet=True)
    assert same(topwork.resume(before.root, plugins=engine, quiet=True, redo=True), fresh)
    assert write


@pytest.mark.parametrize("part", ["options", "task", "base"])
def test_options_that_came_after_a_run_are_no_change_of_its_recipe(part, recipe, engine):
    """Older versions wrote fewer options into run.json; only a value other than the default is a change."""
    recipe["task"] = {"name": "points"}
    before = start(recipe, engine)
    shutil.rmtree(before.root / "stages" / "04-evaluate")
    record = read_record(before.root / "run.json")
    removed = {"options": "learning_rate", "task": "dropout", "base": "revision"}[part]
    for inputs in record["begun"].values():
        inputs[part].pop(removed, None)
    write_record(before.root / "run.json", record)
    topwork.resume(before.root, plugins=engine, quiet=True)
    shutil.rmtree(before.root / "stages" / "04-evaluate")
    changed = yaml.safe_load((before.root / "recipe.yaml").read_text())
    where = {"options": changed["stages"][0]["train"], "task": changed["task"], "base": changed["base"]}[part]
    where[removed] = {"learning_rate": 0.5, "dropout": 0.5, "revision": "v2"}[removed]
    (before.root / "recipe.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(UsageError, match=rf"changed since stage 1.*{removed}"):
        topwork.resume(before.root, plugins=engine, quiet=True)


def test_a_run_that_stands_in_its_second_training_is_taken_over_to_there(recipe, engine):
    before = start(recipe, engine)
    for name in ("03-train", "04-evaluate", "05-save"):
        shutil.rmtree(before.root / "stages" / name)
    shutil.rmtree(before.root / "model")
    first = start({**recipe, "stages": recipe["stages"][:2]}, engine, folder="first")
    second_training(recipe)
    other = start(recipe, engine, folder="other", reuse=first.root)
    assert json.loads(Path("other/run.json").read_text())["from"]["stages"] == 2
    assert same(other, start(recipe, engine, folder="fresh"))


def test_files_that_are_copied_are_the_same(recipe, engine):
    root = start(recipe, engine).root
    for name in ("train.jsonl", "evaluate.jsonl"):
        content = Path(name).read_bytes()
        Path(name).unlink()
        Path(name).write_bytes(content)
    assert topwork.resume(root, plugins=engine, quiet=True).results


def test_a_page_that_a_stage_wrote_is_taken_over(recipe, plugins):
    recipe.update(task="text-classification", base=BASE)
    rows = [{"text": text, "label": label} for text, label in (("good", "a"), ("bad", "b")) for _ in range(6)]
    for name in ("train", "evaluate"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe["stages"] = [{"train": {"steps": 1}}, "report", "evaluate", "save"]
    first = start(recipe, plugins, folder="first")
    other = start({**recipe, "stages": [*recipe["stages"], "evaluate"]}, plugins, folder="other", reuse=first.root)
    assert (other.root / "report.html").read_bytes() == (first.root / "report.html").read_bytes()
    assert (other.root / other.results[3]["result"]["model_folder"] / "topwork.json").is_file()


def test_the_command_line_says_what_is_done_again(recipe, engine, capsys):
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    line = ["--plugin", str(PLUGIN)]
    assert main(["run", "recipe.yaml", "--folder", "one", "--quiet", *line]) == 0
    write_rows("evaluate.jsonl", 5)
    capsys.readouterr()
    assert main(["resume", "one", *line]) == 2
    assert "the rows of `" in capsys.readouterr().err
    assert main(["resume", "one", "--redo", *line]) == 0
    assert "stages from 1 on are done again" in " ".join(capsys.readouterr().err.split())
    assert main(["run", "recipe.yaml", "--from", "one", "--folder", "two", *line]) == 0
    assert "stages 1 to 5 are those of one" in " ".join(capsys.readouterr().err.split())
    assert main(["run", "recipe.yaml", "--from", "nowhere", "--folder", "three", *line]) == 2
    assert not Path("three").exists()
