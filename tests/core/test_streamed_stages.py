"""Stages over streamed rows that are interrupted go on behind the rows that they have done, with the same result."""

from __future__ import annotations

import json

import datasets
import pytest
from tiny_bases import BASES

import topwork
from topwork import CheckpointError
from topwork.data import loop
from topwork.stages import standing

ROWS, AHEAD = 40, 6
FIRST = ("text-classification", "image-classification", "audio-classification")
REST = sorted({*topwork.load_plugins().tasks} - {*FIRST})
CASES = [
    *[("text-classification", form) for form in ("csv", "jsonl")],
    *[(task, "parquet") for task in FIRST],
    *[pytest.param(task, "parquet", marks=pytest.mark.faults) for task in REST],
]


class Killed(BaseException):
    """The end of a process in the middle of its work."""


@pytest.fixture
def small(monkeypatch):
    """Buckets of few rows, and a note of where the loop stands after each."""
    monkeypatch.setattr(loop, "STREAM_ROWS", AHEAD)
    monkeypatch.setattr(standing, "EVERY", 0.0)
    monkeypatch.setattr(standing, "SHARE", 0)


@pytest.fixture
def encoded(monkeypatch):
    """Indices of the rows that were encoded, and after how many of them the process ends."""
    seen = {"rows": [], "end": None}
    original = loop.encode_rows

    def encode(task, indices, *arguments):
        if seen["end"] is not None and len(seen["rows"]) >= seen["end"]:
            raise Killed
        seen["rows"] += indices
        return original(task, indices, *arguments)

    monkeypatch.setattr(loop, "encode_rows", encode)
    return seen


def write_rows(task, form, folder):
    """Write example rows of a task, many times over, to a file; return its path."""
    examples = topwork.load_plugins().task(task).example_rows()
    rows = datasets.Dataset.from_list([examples[index % len(examples)] for index in range(ROWS)])
    if form != "parquet":
        rows = [{"text": f"{row['text']} {index}", "label": row["label"]} for index, row in enumerate(rows)]
        rows = datasets.Dataset.from_list(rows)
    path = folder / f"rows.{form}"
    {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[form](path)
    return path


def recipe(task, path, stages):
    return {
        "task": task,
        "base": BASES[task],
        "data": {role: {"path": str(path), "streaming": True} for role in ("evaluate", "predict")}
        | {"train": str(path)},
        "stages": stages,
    }


def results(folder):
    """Results of the stages without times, and the files that they wrote."""
    known = {}
    for file in sorted((folder / "stages").rglob("*")):
        if file.is_file() and file.name == "result.json":
            result = json.loads(file.read_text())["result"]
            known[file.relative_to(folder)] = {key: value for key, value in result.items() if "second" not in key}
        elif file.is_file():
            known[file.relative_to(folder)] = file.read_bytes()
    return known


@pytest.mark.parametrize(("task", "form"), CASES)
def test_interrupted_stages_go_on_behind_the_rows_they_have_done(small, encoded, tmp_path, task, form):
    made = recipe(task, write_rows(task, form, tmp_path), [{"evaluate": {"groups": 3, "pictures": 4}}, "predict"])
    topwork.run(made, folder=tmp_path / "whole", quiet=True)
    undisturbed = encoded["rows"][:]
    for number, end in enumerate((15, 2 * ROWS - 15)):  # of all rows of both stages: in the first, in the second
        folder = tmp_path / f"interrupted-{number}"
        encoded.update(rows=[], end=end)
        with pytest.raises(Killed):
            topwork.run(made, folder=folder, quiet=True)
        assert list(folder.rglob("checkpoints/0.json"))
        encoded["end"] = None
        topwork.resume(folder, quiet=True)
        assert len(encoded["rows"]) <= len(undisturbed) + AHEAD
        assert results(folder) == results(tmp_path / "whole")


def test_a_stage_whose_written_predictions_are_gone_names_what_to_remove(small, encoded, tmp_path):
    made = recipe("text-classification", write_rows("text-classification", "jsonl", tmp_path), ["predict"])
    encoded["end"] = ROWS // 2
    with pytest.raises(Killed):
        topwork.run(made, folder=tmp_path / "run", quiet=True)
    encoded["end"] = None
    (share,) = (tmp_path / "run").rglob(".part-0.jsonl")
    share.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"lacks predictions that were written.*0\.json"):
        topwork.resume(tmp_path / "run", quiet=True)


def test_losses_of_rows_are_not_computed_again(small, encoded, tmp_path):
    rows = write_rows("text-classification", "jsonl", tmp_path)
    made = recipe("text-classification", rows, [{"evaluate": {"loss": True}}])
    topwork.run(made, folder=tmp_path / "whole", quiet=True)
    encoded.update(rows=[], end=ROWS + ROWS // 2)
    with pytest.raises(Killed):
        topwork.run(made, folder=tmp_path / "run", quiet=True)
    encoded["end"] = None
    topwork.resume(tmp_path / "run", quiet=True)
    assert len(encoded["rows"]) <= 2 * ROWS + AHEAD
    assert results(tmp_path / "run") == results(tmp_path / "whole")
