"""`predict` takes what cannot be misread: a text, an image, a clip, a list, a DataFrame, a data set, a table."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pandas
import pytest
from PIL import Image
from tiny_bases import BASES

import topwork
from topwork import UsageError

#: task -> (its input, texts)
TEXTS = {
    "text-classification": "text",
    "token-classification": "text",
    "fill-mask": "text",
    "summarization": "document",
    "translation": "source",
    "text-generation": "prompt",
}

WRITING = ("summarization", "translation", "text-generation")


@cache
def built(task: str) -> topwork.TaskModel:
    rows = topwork.load_plugins().task(task).example_rows()
    generation = {"generation": {"max_new_tokens": 2}} if task in WRITING else {}
    return topwork.build(task, BASES[task], rows=rows, **generation)


@pytest.mark.parametrize("task", TEXTS)
def test_texts_are_rows_of_the_only_input(task, tmp_path):
    work, column = built(task), TEXTS[task]
    texts = ["a warm film", "a dull [MASK] film" if task == "fill-mask" else "a dull film"]
    expected = list(work.predict([{column: text} for text in texts]))
    assert list(work.predict(texts)) == list(work.predict(tuple(texts))) == expected
    assert list(work.predict(texts[0])) == list(work.predict({column: texts[0]})) == list(work.predict(texts[:1]))
    assert list(work.predict(pandas.DataFrame({column: texts}))) == expected
    assert list(work.predict(pandas.Series(texts))) == expected
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(json.dumps({column: text}) for text in texts))
    assert list(work.predict(table)) == list(work.predict(str(table))) == expected
    pandas.DataFrame({column: texts}).to_csv(tmp_path / "rows.csv", index=False)
    assert list(work.predict(tmp_path / "rows.csv")) == expected


def test_missing_cells_of_a_frame_are_none():
    work = built("text-classification")
    frame = pandas.DataFrame({"text": ["good", "bad"], "text_pair": ["one", float("nan")]})
    expected = work.predict([{"text": "good", "text_pair": "one"}, {"text": "bad", "text_pair": None}])
    assert list(work.predict(frame)) == list(expected)


@pytest.mark.parametrize("task", ["image-classification", "object-detection", "depth-estimation"])
def test_paths_of_images_are_rows(task, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "one.png")
    work = built(task)
    expected = work.predict([{"image": str(tmp_path / "one.png")}])
    image = Image.open(tmp_path / "one.png")
    paths = [tmp_path / "one.png", str(tmp_path / "one.png"), [tmp_path / "one.png"]]
    for value in (*paths, image, [image], (tmp_path / "one.png").read_bytes(), pandas.Series([image])):
        assert shown(work.predict(value)) == shown(expected)


def shown(predictions: Any) -> str:
    return repr([str(prediction) for prediction in predictions])


def test_a_text_that_could_be_several_inputs_is_refused():
    for value in ("a text", ["a text"]):
        with pytest.raises(UsageError, match="could be any of them") as caught:
            built("question-answering").predict(value)
        assert "give dicts" in caught.value.hint


@pytest.mark.parametrize("task", ["image-classification", "object-detection"])
def test_an_empty_path_is_no_folder(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"image": "x.png"}')
    for value in ("", [""]):
        with pytest.raises(UsageError, match="the path of `image` is empty"):
            built(task).predict(value)


@pytest.mark.parametrize("form", ["frame", "csv", "datasets", "list"])
def test_build_train_and_evaluate_take_rows_in_the_same_forms(form, tmp_path):
    import datasets

    rows = [{"text": text, "label": label} for text, label in [("good", "yes"), ("bad", "no"), ("fine", "yes")] * 2]
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    forms = {
        "frame": frame,
        "csv": str(tmp_path / "rows.csv"),
        "datasets": datasets.Dataset.from_list(rows),
        "list": rows,
    }
    work = topwork.build("text-classification", BASES["text-classification"], rows=forms[form])
    assert {"no", "yes"} <= {
        str(name) for names in work.task.state.values.values() if isinstance(names, list) for name in names
    }
    assert work.train(forms[form], steps=1, batch_size=2)["items"] == 6
    assert work.evaluate(forms[form]) == pytest.approx(work.evaluate(rows))
    assert work.apply("evaluate", {"evaluate": forms[form]}, pictures=0)["rows"] == 6


def test_texts_without_targets_are_no_rows_to_train_on():
    with pytest.raises(topwork.TopworkError, match="label"):
        built("text-classification").train(["good", "bad"], steps=1)


TASKS = topwork.load_plugins().tasks
SHORT = {"generation": {"max_new_tokens": 2}}
MEDIA = [task for task in BASES if any(column.lazy for column in TASKS[task].columns.values() if not column.target)]


def inputs(task: str) -> list[dict[str, Any]]:
    """Return two rows with the inputs of a task alone."""
    targets = {name for name, column in TASKS[task].columns.items() if column.target}
    rows = TASKS[task].example_rows()[:2]
    return [{name: cell for name, cell in row.items() if name not in targets} for row in rows]


@cache
def work_of(task: str) -> topwork.TaskModel:
    options = SHORT if task in WRITING else {}
    return topwork.build(task, BASES[task], rows=TASKS[task].example_rows(), **options)


@pytest.mark.parametrize("task", BASES)
def test_every_task_predicts_rows_of_every_form_alike(task, tmp_path):
    import datasets

    work, rows = work_of(task), inputs(task)
    expected = shown(work.predict(rows))
    assert len(work.predict(rows[0])) == 1
    assert shown(work.predict(pandas.DataFrame(rows))) == expected
    if task in MEDIA:
        (column,) = rows[0]
        cells = [row[column] for row in rows]
        assert shown(work.predict(cells)) == shown(work.predict(pandas.Series(cells))) == expected
        assert shown(work.predict(cells[0])) == shown(work.predict(rows[:1]))
        return
    assert shown(work.predict(datasets.Dataset.from_list(rows))) == expected
    if all(isinstance(cell, str) for row in rows for cell in row.values()):
        pandas.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
        assert shown(work.predict(str(tmp_path / "rows.csv"))) == expected


@pytest.mark.parametrize("task", [task for task in MEDIA if TASKS[task].columns.get("image")])
def test_arrays_of_images_and_folders_are_rows(task, tmp_path):
    import numpy

    work = work_of(task)
    images = [row["image"].convert("RGB") for row in inputs(task)]
    arrays = [numpy.asarray(image) for image in images]
    expected = shown(work.predict([{"image": image} for image in images]))
    assert shown(work.predict(arrays)) == expected
    assert len(work.predict(arrays[0])) == 1
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
    assert shown(work.predict(tmp_path)) == expected


@pytest.mark.parametrize("task", BASES)
@pytest.mark.parametrize("value", [5, 1.5, True, {"a"}, None, [5], [["a"]], [None], ...], ids=repr)
def test_values_of_other_kinds_are_refused_with_a_hint(task, value):
    with pytest.raises(topwork.TopworkError) as caught:
        work_of(task).predict(value)
    assert "DataFrame" in caught.value.hint, str(caught.value)


@pytest.mark.parametrize("task", [task for task in BASES if task not in MEDIA])
def test_images_for_a_task_on_texts_are_refused_by_its_inputs(task):
    for value in (
        Image.new("RGB", (8, 8)),
        [Image.new("RGB", (8, 8))],
        b"bytes",
        {"array": [0.0], "sampling_rate": 8000},
    ):
        with pytest.raises(UsageError, match="has the inputs"):
            work_of(task).predict(value)


def test_a_table_that_is_not_there_is_no_text():
    for value in ("reviews.csv", "folder/reviews.jsonl"):
        with pytest.raises(UsageError, match=f"there is no file {value}"):
            work_of("text-classification").predict(value)
    assert len(work_of("text-classification").predict("I read it in reviews.csv")) == 1
