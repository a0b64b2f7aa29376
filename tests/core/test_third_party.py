"""Packages of third parties: built, installed, and used by recipe, command line and Python; and as a local file."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from pathlib import Path

import pytest
import yaml
from elsewhere import ROOT, make_environment, run
from tolerance import about

from topwork import load_plugins
from topwork.testing import check_stage, check_task

SHOUTING = ROOT / "tests" / "packages" / "topwork-shouting"
ODDS = ROOT / "tests" / "packages" / "topwork-odds"
TINY = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def module(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def write_recipe(folder, rows, stages, task="shouting", base=None):
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": task,
        "base": base or {"config": TINY},
        "data": {"train": str(data), "evaluate": str(data), "predict": str(data), "calibrate": str(data)},
        "seed": 3,
        "stages": stages,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


EVERYTHING = [
    {"train": {"epochs": 20, "learning_rate": 3e-3, "batch_size": 8}},
    "evaluate",
    "predict",
    {"head_importance": {"rows": 12}},
    {"prune_heads": {"count": 3}},
    "evaluate",
    "save",
    "report",
]


def results(folder):
    return [json.loads(file.read_text())["result"] for file in sorted(folder.glob("stages/*/result.json"))]


def check_run(folder):
    train, before, predicted, importance, pruned, after, saved, _ = results(folder)
    assert train["steps"] == 60
    assert before["metrics"]["mae"] < 0.1
    assert predicted["rows"] == 12
    assert len(importance["layers"]) == 2
    assert pruned["heads_before"] - pruned["heads_after"] == 3
    assert pruned["parameters_after"] < pruned["parameters_before"]
    assert after["metrics"]["mae"] < 0.5
    assert saved["weights"] == "topwork.safetensors"
    assert (folder / "report.html").is_file()


def test_the_task_keeps_its_promises(tmp_path):
    check_task(module(SHOUTING, "topwork_shouting").Shouting, {"config": TINY}, tmp_path)


def test_the_task_fits_on_one_screen_as_the_guide_says():
    lines = (SHOUTING / "topwork_shouting.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 75


def test_a_local_file_is_a_plugin(tmp_path):
    file = SHOUTING / "topwork_shouting.py"
    recipe = write_recipe(tmp_path, module(SHOUTING, "topwork_shouting").Shouting.example_rows(), EVERYTHING)
    run(sys.executable, "-m", "topwork", "--plugin", file, "run", recipe, "--folder", "out", cwd=tmp_path)
    check_run(tmp_path / "out")
    plugins = load_plugins(files=[file])
    import topwork

    rows = plugins.tasks["shouting"].example_rows()
    loaded = topwork.load(tmp_path / "out" / "model", plugins=plugins)
    assert loaded.evaluate(rows)["mae"] == about(results(tmp_path / "out")[5]["metrics"]["mae"])


def test_a_stranger_adds_stage_base_task_head_and_attention(tmp_path):
    import topwork

    module(ODDS, "topwork_odds_network")
    odds = module(ODDS, "topwork_odds")
    plugins = load_plugins(extra=[odds])
    check_stage(odds.CountParameters)
    rows = plugins.tasks["text-classification"].example_rows()
    work = topwork.build("text-classification", "odd:32", rows=rows, plugins=plugins)
    assert (work.form, type(work.model).__name__) == ("plugin", "OddClassifier")
    work.train(rows, epochs=20, learning_rate=1e-2, batch_size=9)
    before = work.apply("count_parameters", {})["parameters"]
    look = topwork.look(work.model, plugins=plugins)
    assert [(layer.heads, layer.width) for layer in look.layers] == [(4, 8), (4, 8)]
    look.prune_heads({0: [1, 2], 1: [0]})
    assert before - work.apply("count_parameters", {})["parameters"] == 3 * (3 * 8 * 33 + 8 * 32)
    predictions = work.predict(rows)
    work.save(tmp_path / "model")
    assert topwork.load(tmp_path / "model", plugins=plugins).predict(rows) == predictions
    with pytest.raises(topwork.TopworkError):
        topwork.load(tmp_path / "model")  # without the plugin nobody knows the base


def test_public_names_are_typed_and_say_what_they_are():
    import topwork

    assert (Path(topwork.__file__).parent / "py.typed").is_file()  # without it type checkers see nothing of them
    for name in topwork.__all__:
        found = getattr(topwork, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert inspect.getdoc(found), f"{name} has no docstring"
        for member, value in vars(found).items() if inspect.isclass(found) else ():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member} has no docstring"


@pytest.mark.faults
def test_packages_of_third_parties_are_installed_and_found(tmp_path):
    python = make_environment(tmp_path, SHOUTING, ODDS)
    listed = json.loads(run(python, "-m", "topwork", "list", "--json", cwd=tmp_path).stdout)
    assert "shouting" in json.dumps(listed["tasks"])
    assert "count_parameters" in json.dumps(listed["stages"])
    rows = module(SHOUTING, "topwork_shouting").Shouting.example_rows()
    recipe = write_recipe(tmp_path, rows, EVERYTHING)
    run(python, "-m", "topwork", "run", recipe, "--folder", "out", cwd=tmp_path)
    check_run(tmp_path / "out")
    code = (
        "import topwork, json; work = topwork.load('out/model'); rows = work.task.example_rows();"
        "print(json.dumps([work.evaluate(rows)['mae'], work.train(rows, epochs=1)['steps'],"
        "len(work.predict(rows)), len(topwork.look(work.model).layers)]))"
    )
    mae, steps, count, layers = json.loads(run(python, "-c", code, cwd=tmp_path).stdout.splitlines()[-1])
    assert mae == about(results(tmp_path / "out")[5]["metrics"]["mae"])
    assert (steps, count, layers) == (1, 12, 2)
    predicted = run(python, "-m", "topwork", "predict", "out/model", "-i", "text=WE WON. so it is.", cwd=tmp_path)
    assert len(json.loads(predicted.stdout.splitlines()[0])) >= 1
    texts = load_plugins().tasks["text-classification"].example_rows()
    stages = [
        {"train": {"epochs": 2}},
        "count_parameters",
        {"prune_heads": {"count": 2, "random": True}},
        "count_parameters",
        "save",
    ]
    odd = write_recipe(tmp_path, texts, stages, task="text-classification", base="odd:32")
    run(python, "-m", "topwork", "run", odd, "--folder", "odd", cwd=tmp_path)
    _, before, _, after, _ = results(tmp_path / "odd")
    assert after["parameters"] < before["parameters"]
