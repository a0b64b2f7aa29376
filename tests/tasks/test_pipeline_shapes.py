"""Predictions have the shape of the Hub's pipelines, field by field: every pipeline of transformers that has a task."""

from __future__ import annotations

import io
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_bases import BASES
from transformers import pipeline
from transformers.pipelines import SUPPORTED_TASKS

import topwork
from topwork import load_plugins

TASKS = {name: task for name, task in load_plugins().tasks.items() if name in BASES}
TEXT = "Ada Lovelace lives in London"
#: task -> [(options, row, arguments of the pipeline, of its call)]
CASES: dict[str, list[tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any], dict[str, Any]]]] = {
    "text-classification": [
        ({}, None, {}, {}),
        ({"top_k": 2}, None, {}, {"top_k": 2}),
        ({"top_k": "all"}, None, {}, {"top_k": None}),
        ({"multi_label": True}, None, {}, {"top_k": None}),
        ({"regression": True}, None, {}, {}),
    ],
    "token-classification": [
        ({"aggregation": way}, {"text": TEXT}, {}, {"aggregation_strategy": way})
        for way in ("none", "simple", "first", "average", "max")
    ],
    "fill-mask": [
        ({}, {"text": "the [MASK] is here"}, {}, {}),
        ({"top_k": 2}, {"text": "the [MASK] is [MASK]"}, {}, {"top_k": 2}),
    ],
    "text-generation": [
        (
            {"generation": {"max_new_tokens": 3, "do_sample": False}},
            {"prompt": "once upon"},
            {},
            {"max_new_tokens": 3, "do_sample": False},
        )
    ],
    "image-classification": [({}, None, {}, {}), ({"top_k": 1}, None, {}, {"top_k": 1})],
    "image-segmentation": [({}, None, {}, {})],
    "object-detection": [({"threshold": 0.1}, None, {}, {"threshold": 0.1})],
    "depth-estimation": [({}, None, {}, {})],
    "audio-classification": [({}, None, {}, {}), ({"top_k": "all"}, None, {}, {"top_k": 100})],
    "automatic-speech-recognition": [
        ({}, None, {}, {}),
        ({"timestamps": "char"}, None, {}, {"return_timestamps": "char"}),
    ],
}
SHARED = sorted(set(TASKS) & set(SUPPORTED_TASKS))


def rows_of(task: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = TASKS[task].example_rows()
    if options.get("multi_label"):
        return [{**row, "label": [row["label"]]} for row in rows]
    return [{**row, "label": float(index)} for index, row in enumerate(rows)] if options.get("regression") else rows


def of_pipeline(value: Any) -> Any:
    """The input of a pipeline: clips decoded, under the names that it has for them."""
    if isinstance(value, Mapping):
        array, rate = soundfile.read(io.BytesIO(value["bytes"]), dtype="float32")
        return {"raw": array, "sampling_rate": rate}
    return value


def assert_same(mine: Any, theirs: Any, path: str = "prediction") -> None:
    """Compare keys, lengths, kinds of values, and numbers within rounding."""
    if isinstance(theirs, Mapping):
        assert isinstance(mine, Mapping), path
        assert sorted(mine) == sorted(theirs), path
        for key in theirs:
            assert_same(mine[key], theirs[key], f"{path}.{key}")
    elif isinstance(theirs, list | tuple):
        assert isinstance(mine, list | tuple), path
        assert len(mine) == len(theirs), path
        for index, (first, second) in enumerate(zip(mine, theirs)):
            assert_same(first, second, f"{path}[{index}]")
    elif isinstance(theirs, Image.Image):
        assert (mine.size, mine.mode) == (theirs.size, theirs.mode), path
    elif isinstance(theirs, Real | np.generic) and not isinstance(theirs, bool):
        assert float(mine) == pytest.approx(float(theirs), rel=1e-3, abs=1e-4), path
    elif hasattr(theirs, "shape"):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-3, atol=1e-3)
    elif path.endswith(".word"):  # as the text has it, and not as the tokenizer writes it
        assert mine.casefold() == theirs.casefold(), path
    else:
        assert mine == theirs, path


def test_every_pipeline_that_has_a_task_is_compared() -> None:
    assert set(SHARED) <= set(CASES)


@pytest.mark.parametrize(("task", "index"), [(task, index) for task in SHARED for index in range(len(CASES[task]))])
def test_one_row_is_answered_as_by_the_pipeline(task, index, tmp_path: Path) -> None:
    options, row, settings, call = CASES[task][index]
    work = topwork.build(task, BASES[task], rows=rows_of(task, options), seed=0, **options)
    row = row or TASKS[task].example_rows()[0]
    work.save(tmp_path / "model")
    inputs = {name: row[name] for name, column in work.task.columns.items() if not column.target and name in row}
    (value,) = list(inputs.values())[:1]
    pipe = pipeline(task, model=str(tmp_path / "model"), device="cpu", **settings)
    theirs = pipe(of_pipeline(value), **call)
    (mine,) = work.predict([inputs])
    assert_same(mine, theirs)
    assert work.predict([inputs, inputs])[1] is not None  # a list of rows is a list with an entry for every row
    assert len(work.predict([inputs, inputs])) == 2


#: pipelines that transformers 5 has no more, as those of transformers 4 answered
FORMER = {
    "question-answering": ["score", "start", "end", "answer"],
    "summarization": ["summary_text"],
    "translation": ["translation_text"],
}


@pytest.mark.parametrize("task", sorted(FORMER))
def test_tasks_whose_pipeline_is_gone_answer_as_it_did(task) -> None:
    rows = TASKS[task].example_rows()
    options = {} if task == "question-answering" else {"generation": {"max_new_tokens": 3}}
    (mine,) = topwork.build(task, BASES[task], rows=rows, seed=0, **options).predict(rows[:1])
    entries = mine if isinstance(mine, list) else [mine]
    assert isinstance(mine, list) is (task != "question-answering")
    assert all(list(entry) == FORMER[task] for entry in entries)
