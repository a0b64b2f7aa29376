"""Bad input, for every installed task: each way in which a column can be wrong goes through training, evaluation and
prediction, and does what the table that the task documents says. What is refused names row, column and hint, and is
skipped and counted with `on_error: skip`; what is handled gives finite numbers."""

from __future__ import annotations

import json
import math
from functools import cache, partial
from typing import Any

import bad_media
import bad_texts
import pytest
import torch
from bad_input import MODES, PLAIN, Fault, Form, Row, told, without
from tiny_bases import BASES

import topwork
from topwork import DataError, Task, TopworkError

TASKS = topwork.load_plugins().tasks
#: where the bad row stands among the good ones
PLACE = 2
#: so that writing costs little
SHORT: dict[str, Any] = {"generation": {"max_new_tokens": 2, "num_beams": 1}}
WRITERS = ("text-generation", "summarization", "translation")


# ---------------------------------------------------------------- which faults there are


def faults(task: type[Task]) -> list[Fault]:
    """Every fault that the columns of a task can have."""
    found: list[Fault] = []
    for column in task.columns:
        form = {**bad_texts.FORMS, **bad_media.FORMS}.get((task.name, column), PLAIN)
        rows = form.rows(example_rows(task))
        if column not in bad_media.READ_OTHERWISE and any(row.get(column) is not None for row in rows):
            found.append(Fault(column, "missing", partial(without, column), form, everywhere=True))
        found.append(Fault(column, "None", lambda row, column=column: {**row, column: None}, form))
        found += faults_of(task, column)(task, column, form)
    return found


def faults_of(task: type[Task], column: str) -> Any:
    if column == "objects":
        return bad_media.segmented_objects if "mask" in task.columns else bad_media.boxes
    if column == "text" and "audio" in task.columns:
        return bad_texts.spoken_texts
    return {**bad_texts.FAULTS, **bad_media.FAULTS}.get(column, bad_texts.texts)


@cache
def example_rows(task: type[Task]) -> list[Row]:
    return task.example_rows()


FAULTS = {name: faults(TASKS[name]) for name in sorted(TASKS)}
CASES = [pytest.param(name, fault, id=f"{name}-{fault}") for name, found in FAULTS.items() for fault in found]


# ---------------------------------------------------------------- models and rows


@cache
def built(name: str, form: str) -> topwork.TaskModel:
    chosen = next(fault.form for fault in FAULTS[name] if fault.form.name == form)
    return build(name, chosen, chosen.rows(example_rows(TASKS[name])))


def build(name: str, form: Form, rows: list[Row], **how: Any) -> topwork.TaskModel:
    options = {**form.options, **(SHORT if name in WRITERS else {}), **how}
    return topwork.build(name, form.config or BASES[name], rows=rows, **options)


def spoilt(name: str, fault: Fault) -> list[Row]:
    """Four rows, of which the third is bad; or all of them."""
    rows = fault.form.rows(example_rows(TASKS[name]))[1:5]
    return [fault.spoil(row) if fault.everywhere or place == PLACE else row for place, row in enumerate(rows)]


def go(work: topwork.TaskModel, mode: str, rows: list[Row], **how: Any) -> dict[str, Any]:
    """The result of the stage."""
    if mode == "training":
        return work.apply("train", {"train": rows}, steps=1, checkpoint_every="never", **how)
    if mode == "evaluation":
        return work.apply("evaluate", {"evaluate": rows}, **how)
    return work.apply("predict", {"predict": rows}, **how)


# ---------------------------------------------------------------- the tests


@pytest.mark.parametrize("name", TASKS)
def test_the_documented_table_has_every_fault_and_no_other(name) -> None:
    assert set(told(TASKS[name])) == {str(fault) for fault in FAULTS[name]}


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_bad_input(name: str, fault: Fault) -> None:
    verdicts = told(TASKS[name])[str(fault)]
    work, rows = built(name, fault.form.name), spoilt(name, fault)
    for mode in MODES:
        if verdicts[mode] == "refused":
            refused(work, mode, fault, rows)
        else:
            handled(work, mode, fault, rows)


def refused(work: topwork.TaskModel, mode: str, fault: Fault, rows: list[Row]) -> None:
    before = [parameter.clone() for parameter in work.model.parameters()]
    with pytest.raises(TopworkError) as caught:
        go(work, mode, rows)
    assert fault.column in str(caught.value)
    assert caught.value.hint
    assert all(torch.equal(one, other) for one, other in zip(before, work.model.parameters()))
    if fault.everywhere:
        return
    assert isinstance(caught.value, DataError)
    assert caught.value.row == PLACE
    assert f"row {PLACE}" in str(caught.value)
    if mode == "training" and in_recipe(fault):
        return  # the recipe below skips it in training, together with the others
    result = go(work, mode, rows, on_error="skip")
    assert result["skipped"] == 1
    assert [note["row"] for note in result["skipped_rows"]] == [PLACE]
    assert result["skipped_rows"][0]["cause"] == caught.value.cause
    if mode != "training":
        assert result["rows"] == len(rows) - 1


def handled(work: topwork.TaskModel, mode: str, fault: Fault, rows: list[Row]) -> None:
    if mode == "training" and in_recipe(fault):
        return  # the recipe below trains on it, together with the others
    result = go(work, mode, rows)
    assert result["skipped"] == 0
    if mode == "training":
        assert math.isfinite(result["loss"])
    else:
        assert result["rows"] == len(rows)
    if mode == "evaluation" and not fault.everywhere:
        assert math.isfinite(result["metrics"][result["primary"]])
    if mode == "predictions":
        json.dumps([finite(prediction) for prediction in work.predict(rows)])


def finite(prediction: Any) -> bool:
    """Whether every number of a prediction is finite; it must be."""
    if isinstance(prediction, dict):
        return all(finite(value) for value in prediction.values())
    if isinstance(prediction, list | tuple):
        return all(finite(value) for value in prediction)
    if hasattr(prediction, "__array__") or isinstance(prediction, float):
        assert bool(torch.as_tensor(__import__("numpy").asarray(prediction)).isfinite().all())
    return True


# ---------------------------------------------------------------- through a recipe: what a task learns from bad rows


class Given:
    """Rows of this test under the path `given:rows`."""

    rows: list[Row] = []

    @topwork.hookimpl
    def load_rows(self, source: str) -> list[Row] | None:
        return self.rows if source == "given:rows" else None


PLUGINS = topwork.load_plugins(extra=[Given()])
#: faults that are none to a task that learns its labels, letters and range of pixels from these rows
LEARNED = {"a number that is no label", "a letter outside the vocabulary", "16-bit", "of floats"}
FORMS = [(name, form) for name, found in FAULTS.items() for form in sorted({fault.form.name for fault in found})]


def in_recipe(fault: Fault) -> bool:
    """Whether a recipe has rows with this fault: it is one even where labels and letters are learned from the row."""
    return not (fault.everywhere or fault.name.startswith("unknown") or fault.name in LEARNED)


@pytest.mark.parametrize(("name", "form"), FORMS, ids=lambda value: value or "plain")
def test_a_recipe_skips_bad_rows_and_counts_them(name: str, form: str, tmp_path) -> None:
    """All bad and odd rows at once, also where label names, statistics and tokenizers are learned; those that are
    handled make one batch."""
    found = [fault for fault in FAULTS[name] if fault.form.name == form and in_recipe(fault)]
    chosen, verdicts = found[0].form, told(TASKS[name])
    good, base = chosen.rows(example_rows(TASKS[name])), chosen.config or BASES[name]
    Given.rows = [*good, *(fault.spoil(good[1]) for fault in found)]
    recipe = {
        "task": {"name": name, **chosen.options, **(SHORT if name in WRITERS else {})},
        "base": base,
        "data": {**{role: {"path": "given:rows"} for role in ("train", "evaluate", "predict")}, "on_error": "skip"},
        "stages": [{"train": {"steps": 1, "batch_size": 512}}, "evaluate", "predict"],
    }
    run = topwork.run(recipe, plugins=PLUGINS, folder=tmp_path / "run", quiet=True)
    for mode, record in zip(MODES, run.results):
        bad = [str(fault) for fault in found if verdicts[str(fault)][mode] == "refused"]
        skipped = [str(found[note["row"] - len(good)]) for note in record["result"]["skipped_rows"]]
        assert record["result"]["skipped"] == len(bad), (mode, skipped, bad)
        assert set(skipped) <= set(bad), mode
    assert math.isfinite(run.results[0]["result"]["loss"])
    if not any("refused" in verdicts[str(fault)].values() for fault in found):
        return
    recipe["data"]["on_error"] = "raise"
    with pytest.raises(TopworkError, match=r"row \d+") as caught:
        topwork.run(recipe, plugins=PLUGINS, folder=tmp_path / "raised", quiet=True)
    assert caught.value.hint
