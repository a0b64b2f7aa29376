"""Texts in any script: learned tokenizers keep marks, answers keep their last mark, words of unspaced scripts."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest
import transformers
from scripts import ANSWERS, BERT, PAIRS, best_metrics, downloaded, perfect_predictions

import topwork
from topwork import DataError

CONFIGS: dict[str, dict[str, Any]] = {
    "text-generation": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64},
    "summarization": {"model_type": "t5", "d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 64, "d_kv": 8},
    "translation": {"model_type": "t5", "d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 64, "d_kv": 8},
}
TEXT_TASKS = (
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "text-generation",
    "summarization",
    "translation",
)
NORMALISING = ("bert uncased", "albert", "NFC", "NFD")


def rows_of(task: str, words: list[str]) -> list[dict[str, Any]]:
    """Rows of a task whose texts are these words."""
    make = {
        "text-classification": lambda word, index: {"text": word, "label": "ab"[index % 2]},
        "token-classification": lambda word, index: {"words": [word], "tags": ["XY"[index % 2]]},
        "question-answering": lambda word, index: {
            "question": word,
            "context": word,
            "answers": {"text": [word], "answer_start": [0]},
        },
        "fill-mask": lambda word, index: {"text": word, "answer": None},
        "text-generation": lambda word, index: {"text": word},
        "summarization": lambda word, index: {"document": word, "summary": word},
        "translation": lambda word, index: {"source": word, "target": word},
    }[task]
    return [make(word, index) for index, word in enumerate(words)]


@cache
def built(task: str, tokenizer: tuple[tuple[str, Any], ...]) -> topwork.TaskModel:
    words = [word for pair in PAIRS.values() for word in pair]
    config = CONFIGS.get(task, {"model_type": "bert", **BERT})
    options = {"min_frequency": 1, **dict(tokenizer)}
    return topwork.build(task, {"config": config}, rows=rows_of(task, words), tokenizer=options)


@pytest.mark.parametrize("kind", ["default", "wordpiece", "bpe"])
@pytest.mark.parametrize("task", TEXT_TASKS)
@pytest.mark.parametrize("script", PAIRS)
def test_words_that_differ_by_a_mark_have_different_tokens(task, kind, script):
    options = () if kind == "default" else (("kind", kind), ("lowercase", True))
    tokenizer = built(task, options).task.tokenizer
    first, second = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in PAIRS[script])
    assert tokenizer.unk_token_id not in [*first, *second]
    assert first != second


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("task", TEXT_TASKS)
def test_accents_are_stripped_when_asked_for(task, kind):
    tokenizer = built(task, (("kind", kind), ("lowercase", True), ("strip_accents", True))).task.tokenizer
    for script in ("Latin, decomposed", "Latin, composed", "Hebrew with points", "Thai", "Greek, composed"):
        first, second = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in PAIRS[script])
        assert first == second, script


@pytest.mark.parametrize("task", ["text-generation", "summarization", "translation"])
@pytest.mark.parametrize("script", ANSWERS)
def test_a_written_text_comes_back_as_it_was(task, script):
    tokenizer = built(task, ()).task.tokenizer
    text = ANSWERS[script][0]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_classes_that_differ_by_a_mark_are_learned():
    words = [*PAIRS["Devanagari"], *PAIRS["Hebrew with points"]] * 4
    rows = [{"text": word, "label": "ab"[index % 2]} for index, word in enumerate(words)]
    work = topwork.build("text-classification", {"config": {"model_type": "bert", **BERT}}, rows=rows)
    work.train(rows, steps=40, learning_rate=5e-3, batch_size=16)
    assert work.evaluate(rows)["accuracy"] == 1.0


# ---------------------------------------------------------------- answers and spans


def answer_rows(script: str) -> list[dict[str, Any]]:
    context, answer = ANSWERS[script]
    start = context.index(answer)
    return [{"question": "x", "context": context, "answers": {"text": [answer], "answer_start": [start]}}]


def span_rows(script: str) -> list[dict[str, Any]]:
    text, answer = ANSWERS[script]
    start = text.index(answer)
    return [{"text": text, "spans": [{"start": start, "end": start + len(answer), "label": "LOC"}]}]


def base_of(kind: str, folder: Any) -> dict[str, Any]:
    """A base whose tokenizer is learned by the task, or that brings one that normalises."""
    if kind in ("wordpiece", "bpe"):
        return {"config": {"model_type": "bert", **BERT}}
    return downloaded(folder, kind, ["x", *(text for text, _ in ANSWERS.values())])


def options_of(kind: str) -> dict[str, Any]:
    return {"tokenizer": {"kind": kind, "min_frequency": 1}} if kind in ("wordpiece", "bpe") else {}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", *NORMALISING])
@pytest.mark.parametrize("script", ANSWERS)
def test_an_answer_keeps_the_marks_behind_its_last_token(script, kind, tmp_path):
    rows = answer_rows(script)
    work = topwork.build("question-answering", base_of(kind, tmp_path), rows=rows, **options_of(kind))
    (prediction,) = perfect_predictions(work.task, rows)
    context, answer = ANSWERS[script]
    assert prediction["answer"] == answer
    assert (prediction["start"], prediction["end"]) == (context.index(answer), context.index(answer) + len(answer))
    assert best_metrics(work.task, rows)["exact_match"] == 1.0


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", *NORMALISING])
@pytest.mark.parametrize("aggregation", ["first", "average", "max"])
@pytest.mark.parametrize("script", ANSWERS)
def test_the_best_f1_of_spans_is_one_in_every_script(script, aggregation, kind, tmp_path):
    rows = span_rows(script)
    options = {"aggregation": aggregation, "sub_words": "all", **options_of(kind)}
    work = topwork.build("token-classification", base_of(kind, tmp_path), rows=rows, **options)
    assert best_metrics(work.task, rows)["f1"] == 1.0
    ((entity,),) = perfect_predictions(work.task, rows)
    assert (entity["entity_group"], entity["word"]) == ("LOC", ANSWERS[script][1])
    assert rows[0]["text"][entity["start"] : entity["end"]] == ANSWERS[script][1]


@pytest.mark.parametrize(
    ("text", "spans"),
    {
        "neighbours without spaces": ("\u6211\u7231\u5317\u4eac\u5929\u5b89\u95e8", [(2, 4), (4, 7)]),
        "white space at both ends": ("see Anna now", [(3, 9)]),
        "a line end": ("see Anna\nnow", [(4, 9)]),
        "a wide space": ("see\u3000Anna\u3000now", [(3, 8)]),
        "two of one kind": ("\u5f20\u4e09\u674e\u56db", [(0, 2), (2, 4)]),
        "Thai neighbours": ("\u0e44\u0e17\u0e22\u0e25\u0e32\u0e27", [(0, 3), (3, 6)]),
    }.values(),
)
def test_spans_of_unspaced_scripts_and_with_white_space_can_be_learned(text, spans):
    rows = [{"text": text, "spans": [{"start": start, "end": end, "label": "LOC"} for start, end in spans]}]
    work = topwork.build("token-classification", {"config": {"model_type": "bert", **BERT}}, rows=rows)
    assert best_metrics(work.task, rows)["f1"] == 1.0


INEXPRESSIBLE = {
    "inside a word": ("AnnaBob left", [(0, 4), (4, 7)]),
    "nested": ("New York City", [(0, 13), (4, 8)]),
    "overlapping": ("New York City", [(0, 8), (4, 13)]),
    "a Korean particle": ("\uc11c\uc6b8\uc5d0\uc11c", [(0, 2)]),
}


def inexpressible_rows(case: str) -> list[dict[str, Any]]:
    text, spans = INEXPRESSIBLE[case]
    bad = {"text": text, "spans": [{"start": start, "end": end, "label": "LOC"} for start, end in spans]}
    return [{"text": "in Oslo", "spans": [{"start": 3, "end": 7, "label": "LOC"}]}, bad]


@pytest.mark.parametrize("case", INEXPRESSIBLE)
def test_spans_that_tags_cannot_express_are_refused_in_training_and_counted_in_evaluation(case):
    rows = inexpressible_rows(case)
    work = topwork.build("token-classification", {"config": {"model_type": "bert", **BERT}}, rows=rows)
    with pytest.raises(DataError, match="the span") as caught:
        work.train(rows, steps=1)
    assert (caught.value.row, caught.value.column) == (1, "spans")
    assert work.apply("evaluate", {"evaluate": rows})["tables"]["inexpressible_spans"] >= 1
    assert work.train(rows, steps=1, on_error="skip")["skipped"] == 1


@pytest.mark.parametrize("case", ["inside a word", "a Korean particle"])
def test_signs_can_be_tagged_in_place_of_words(case):
    rows = inexpressible_rows(case)
    work = topwork.build(
        "token-classification",
        {"config": {"model_type": "bert", **BERT}},
        rows=rows,
        span_words="signs",
        tokenizer={"kind": "bpe", "vocab_size": 261, "min_frequency": 1},
    )
    assert best_metrics(work.task, rows)["f1"] == 1.0


@pytest.mark.parametrize(
    ("text", "spans"),
    [("He said \u00aboui\u00bb.", [(8, 13)]), ("Yahoo Inc., said", [(0, 10)]), ("U.S.-led x U.S.-led", [(0, 8)]),
     ("\u5728\u300a\u5317\u4eac\u300b\u3002", [(1, 5)])],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_sign_behind_a_span_that_its_last_token_covers_is_outside(text, spans, kind):
    rows = [{"text": text, "spans": [{"start": start, "end": end, "label": "LOC"} for start, end in spans]}]
    options = {"tokenizer": {"kind": kind, "min_frequency": 1}, "sub_words": "all"}
    work = topwork.build("token-classification", {"config": {"model_type": "bert", **BERT}}, rows=rows, **options)
    assert best_metrics(work.task, rows)["f1"] == 1.0


def test_a_span_whose_last_sign_has_no_token_is_refused():
    rows = [{"text": "He said \u00aboui\u00bb.", "spans": [{"start": 8, "end": 14, "label": "LOC"}]}]
    options = {"tokenizer": {"kind": "bpe", "min_frequency": 1}}
    work = topwork.build("token-classification", {"config": {"model_type": "bert", **BERT}}, rows=rows * 2, **options)
    with pytest.raises(DataError, match=r"no token begins at '\.'"):
        work.train(rows, steps=1)


def test_a_token_over_two_spans_is_refused(tmp_path):
    """A base whose vocabulary joins the last sign of one span with the first of the next."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=joined_tokenizer(), pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    tokenizer.save_pretrained(tmp_path)
    transformers.BertModel(transformers.BertConfig(**BERT, vocab_size=len(tokenizer))).save_pretrained(tmp_path)
    spans = [{"start": 0, "end": 2, "label": "LOC"}, {"start": 2, "end": 4, "label": "LOC"}]
    whole = {"text": "\u5317\u4eac\u5929\u95e8", "spans": [{"start": 0, "end": 4, "label": "LOC"}]}
    work = topwork.build("token-classification", {"model": str(tmp_path)}, rows=[whole])
    assert best_metrics(work.task, [whole])["f1"] == 1.0
    with pytest.raises(DataError, match="no token begins") as caught:
        work.train([whole, {"text": "\u5317\u4eac\u5929\u95e8", "spans": spans}], steps=1)
    assert (caught.value.row, caught.value.column) == (1, "spans")


def joined_tokenizer() -> Any:
    """Tokens of one sign, but for one that joins the second and the third sign of the text above."""
    import tokenizers

    pieces = ["[PAD]", "[UNK]", "\u4eac\u5929", "\u5317", "\u95e8"]
    model = tokenizers.models.Unigram([(piece, -float(index)) for index, piece in enumerate(pieces)], unk_id=1)
    return tokenizers.Tokenizer(model)


# ---------------------------------------------------------------- very long words


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize(
    ("unit", "count"), [("acgt", 250_000), ("\u6f22", 100_000), ("\u0e01", 100_000), (".", 100_000)]
)
def test_a_word_of_very_many_letters_is_learned_from_in_seconds(kind, unit, count):
    rows = [{"text": unit * count, "label": "a"}, {"text": "a short one", "label": "b"}]
    begin = time.process_time()
    topwork.build(
        "text-classification", {"config": {"model_type": "bert", **BERT}}, rows=rows, tokenizer={"kind": kind}
    )
    assert time.process_time() - begin < 10
