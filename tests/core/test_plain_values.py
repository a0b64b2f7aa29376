"""`predict` takes what cannot be misread: a text, a list, a DataFrame, a table in a file."""

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
}


@cache
def built(task: str) -> topwork.TaskModel:
    rows = topwork.load_plugins().task(task).example_rows()
    generation = {"generation": {"max_new_tokens": 2}} if task in ("summarization", "translation") else {}
    return topwork.build(task, BASES[task], rows=rows, **generation)


@pytest.mark.parametrize("task", TEXTS)
def test_texts_are_rows_of_the_only_input(task, tmp_path):
    work, column = built(task), TEXTS[task]
    texts = ["a warm film", "a dull [MASK] film" if task == "fill-mask" else "a dull film"]
    expected = list(work.predict([{column: text} for text in texts]))
    assert list(work.predict(texts)) == list(work.predict(tuple(texts))) == expected
    assert list(work.predict(texts[0])) == list(work.predict({column: texts[0]})) == list(work.predict(texts[:1]))
    assert list(work.predict(pandas.DataFrame({column: texts}))) == expected
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
    for value in (tmp_path / "one.png", str(tmp_path / "one.png"), [tmp_path / "one.png"]):
        assert shown(work.predict(value)) == shown(expected)


def shown(predictions: Any) -> str:
    return repr([str(prediction) for prediction in predictions])


@pytest.mark.parametrize("task", ["question-answering", "text-generation"])
def test_a_text_that_could_be_several_inputs_is_refused(task):
    for value in ("a text", ["a text"]):
        with pytest.raises(UsageError, match="could be any of them") as caught:
            built(task).predict(value)
        assert "give dicts" in caught.value.hint


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
