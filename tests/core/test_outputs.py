"""Files that finished stages left: one that was removed or changed since then is named wherever they are used again."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from damage import DAMAGES, unnamed
from tiny_bases import BERT

import topwork
from topwork import CheckpointError
from topwork.cli.app import main

LABELS = {"good": "fine lovely", "bad": "awful poor"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict[str, Any]:
    rows = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"text": f"a {word} film", "label": label} for label, words in LABELS.items() for word in words.split()]
    rows.write_text("".join(json.dumps(row) + "\n" for row in lines * 3))
    return {
        "task": "text-classification",
        "base": copy.deepcopy(BERT),
        "data": {"train": str(rows), "evaluate": str(rows), "predict": str(rows)},
        "stages": [{"train": {"steps": 2}}, "head_importance", "evaluate", "predict", "report", "save"],
    }


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("runs") / "run"
    topwork.run(recipe, folder=root, quiet=True)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("not a number", "other dtype")])
def test_resume_names_every_file_that_is_not_as_its_stage_left_it(damage, finished, tmp_path):
    folder = finished / "stages"
    assert {file.name for file in folder.rglob("*")} >= {"predictions.jsonl", "importance.json", "predictions.json"}

    def resume(stages: Path) -> None:
        root = tmp_path / "run"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(finished, root, ignore=shutil.ignore_patterns("stages"))
        shutil.move(stages, root / "stages")
        topwork.resume(root, quiet=True)

    faults = list(unnamed(folder, damage, tmp_path / "copy", resume))
    if damage in ("remove", "link to itself"):  # a stage without a result is one that is to be done
        faults = [fault for fault in faults if "result.json" not in fault.split(":")[0]]
    assert faults == []


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml"])
@pytest.mark.parametrize("damage", ["empty", "flip at the end", "pipe", "link to itself"])
def test_a_damaged_record_of_the_run_is_refused(damage, name, root):
    DAMAGES[damage](root / name)
    with pytest.raises(topwork.TopworkError, match=rf"{name}|no run folder"):
        topwork.resume(root, quiet=True)


def test_redo_does_the_stage_again_whose_file_was_changed(root):
    file = root / "stages/04-predict/predictions.jsonl"
    whole = file.read_bytes()
    DAMAGES["cut short"](file)
    topwork.resume(root, quiet=True, redo=True)
    assert file.read_bytes() == whole
    log = (root / "log.txt").read_text()
    assert "`stages/04-predict/predictions.jsonl` of stage 4, predict: the file was cut short" in log
    assert "stages from 4 on are done again" in log


def test_redo_does_a_stage_again_whose_result_is_damaged(root):
    DAMAGES["flip at the end"](root / "stages/03-evaluate/result.json")
    topwork.resume(root, quiet=True, redo=True)
    log = (root / "log.txt").read_text()
    assert "`stages/03-evaluate/result.json` of stage 3, evaluate: the file is not the one that was written" in log
    assert "on are done again" in log


def test_a_run_takes_over_no_stage_with_a_changed_file(root, recipe, tmp_path):
    DAMAGES["flip in the middle"](root / "stages/04-predict/predictions.jsonl")
    other = topwork.run(recipe, folder=tmp_path / "other", quiet=True, reuse=root)
    log = (other.root / "log.txt").read_text()
    assert "stages 1 to 3 are those of" in log
    assert "04-predict/predictions.jsonl: the file was changed" in log


def test_the_page_of_a_run_names_changed_files_on_top(root, capsys):
    DAMAGES["flip at the end"](root / "stages/04-predict/predictions.jsonl")
    (root / "stages/02-head_importance/importance.json").unlink()
    assert main(["report", str(root)]) == 0
    page = (root / "report.html").read_text()
    assert "04-predict/predictions.jsonl: the file was changed" in page
    assert "02-head_importance/importance.json: the file is missing" in page


def test_a_result_without_a_list_as_earlier_versions_wrote_it_is_taken(root):
    for file in root.glob("stages/*/result.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({key: record[key] for key in record if key not in ("outputs", "checksum")}))
    assert len(topwork.resume(root, quiet=True).results) == 6


def test_an_entry_of_the_list_that_describes_no_file_is_refused(root):
    file = root / "stages/04-predict/result.json"
    record = json.loads(file.read_text())
    record.pop("checksum")
    file.write_text(json.dumps({**record, "outputs": {"predictions.jsonl": 5}}))
    with pytest.raises(CheckpointError, match=r"04-predict/result.json.* the file is damaged \(its `outputs`\)"):
        topwork.resume(root, quiet=True)
