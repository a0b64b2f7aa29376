"""summarization: ROUGE as rouge-score gives it and for every script, the sample, bad input."""

from __future__ import annotations

import itertools

import pytest
from rouge_score.rouge_scorer import RougeScorer
from tiny_bases import SEQ2SEQ

import topwork
from topwork import DataError
from topwork_bases.samples.match_reports import match_reports
from topwork_tasks._text.metrics import TextMetric
from topwork_tasks._text.words import rouge_words
from topwork_tasks.summarization import Summarization

BART = {"model_type": "bart", **SEQ2SEQ}
ROWS = Summarization.example_rows()


def measured(kinds, pairs):
    halves = [TextMetric(kinds, lambda row: row["true"], str) for _ in range(2)]
    for number, (true, said) in enumerate(pairs):
        halves[number % 2].update({"true": true}, said)
    halves[0].merge(halves[1])
    return halves[0].result()


def test_rouge_equals_rouge_score_on_english():
    reports = [row["document"].replace(". ", ".\n") for row in match_reports("test")[:12]]
    pairs = list(itertools.pairwise(reports))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    found = measured(("rouge", "length"), pairs)
    for key in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        expected = [scorer.score(true, said)[key].fmeasure for true, said in pairs]
        assert found[key] == pytest.approx(sum(expected) / len(expected))
    assert found["rougeL"] != found["rougeLsum"]


def test_words_of_every_script():
    assert rouge_words("It's 3 o'clock: snake_case!") == ["it", "s", "3", "o", "clock", "snake", "case"]
    assert rouge_words("東京は雨") == ["東", "京", "は", "雨"]
    assert rouge_words("Größe Ελλάδα हिन्दी") == ["größe", "ελλάδα", "हिन्दी"]
    found = measured(("rouge",), [("東京は雨です", "東京は晴れです")])
    assert 0.5 < found["rouge1"] < 1


def test_lengths():
    found = measured(("length", "exact_match"), [("a b c d", "a b"), ("a b", "a b")])
    assert (found["length"], found["length_ratio"], found["exact_match"]) == (2, pytest.approx(4 / 6), 0.5)


def test_the_sample_tells_its_summaries():
    train, test = match_reports("train"), match_reports("test")
    assert not {row["summary"] for row in train} & {row["summary"] for row in test}
    for row in test[:50]:
        words = row["summary"].strip(".").split()
        missing = [word for word in words if word not in row["document"] and word not in ("beat", "drew", "and")]
        assert not missing, row


BAD = {
    "no document": ({"summary": "x"}, "document", "missing"),
    "document is a number": ({"document": 3, "summary": "x"}, "document", "not text"),
    "document is None": ({"document": None, "summary": "x"}, "document", "not text"),
    "no summary": ({"document": "x"}, "summary", "missing"),
    "summary is a list": ({"document": "x", "summary": ["x"]}, "summary", "not text"),
}


@pytest.fixture(scope="module")
def work():
    return topwork.build("summarization", {"config": BART}, rows=ROWS)


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_with_row_and_column(work, case):
    row, column, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        work.task.encode([ROWS[0], row], "loss", 0)
    assert (caught.value.row, caught.value.column) == (1, column)
    assert caught.value.hint


def test_a_prefix_stands_before_every_document():
    plain, prefixed = (
        topwork.build("summarization", {"config": BART}, rows=ROWS, prefix=prefix) for prefix in ("", "summarize: ")
    )
    ids = prefixed.task.encode(ROWS[:1], "predict", 0)[0].inputs["input_ids"]
    assert plain.task.tokenizer.decode(ids, skip_special_tokens=True).startswith("summarize: It rained")


def test_long_and_empty_documents(work):
    rows = [{"document": "It rained. " * 900}, {"document": ""}]
    items = work.task.encode(rows, "predict", 0)
    assert len(items[0].inputs["input_ids"]) == 1024
    assert [set(prediction[0]) for prediction in work.predict(rows)] == [{"summary_text"}] * 2


def test_pictures_show_the_worst_first(work):
    right = work.task.draw(ROWS[0], [{"summary_text": ROWS[0]["summary"]}])
    near = work.task.draw(ROWS[0], [{"summary_text": "Rain in Rome."}])
    far = work.task.draw(ROWS[0], [{"summary_text": "Nothing"}])
    assert right.badness == 0 < near.badness < far.badness <= 1
    assert ("Rain in Oslo.", "truth") in near.text
