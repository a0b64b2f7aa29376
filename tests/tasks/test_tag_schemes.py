"""Spellings of chunk schemes, and predictions of token-classification from which its metrics can be computed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import seqeval.metrics
import torch
from scripts import BERT

import topwork
from topwork import DataError
from topwork_tasks.token_classification.predictions import TagPrediction

#: how the tags B, I and O of one entity type may be written
SPELLINGS = {
    "alone": "B I O",
    "alone, lower case": "b i o",
    "prefix -": "B-PER I-PER O",
    "prefix _": "B_PER I_PER O",
    "prefix :": "B:PER I:PER O",
    "prefix /": "B/PER I/PER O",
    "prefix .": "B.PER I.PER O",
    "prefix, lower case": "b-per i-per O",
    "prefix, all in lower case": "b-per i-per o",
    "suffix -": "PER-B PER-I O",
    "suffix _": "PER_B PER_I O",
    "suffix, lower case": "per/b per/i O",
    "type with a separator": "B-PER-NAME I-PER-NAME O",
}
#: the same for schemes with more letters: of a single word, and of one of three words
LONG_SPELLINGS = {
    "IOBES": ("S-PER", "B-PER I-PER E-PER"),
    "BILOU": ("U-PER", "B-PER I-PER L-PER"),
    "BILOU, suffix": ("PER_U", "PER_B PER_I PER_L"),
    "BMEWO": ("W-PER", "B-PER M-PER E-PER"),
    "BMES, alone": ("S", "B M E"),
    "BILOU, alone and in lower case": ("u", "b i l"),
}
REFUSED = {
    "prefix and none": ["B-PER", "I-PER", "LOC", "O"],
    "alone and none": ["B", "I", "PER", "O"],
    "another word for outside": ["B-PER", "I-PER", "none"],
    "no separator": ["BPER", "IPER", "BLOC", "ILOC", "O"],
    "no separator, suffix": ["PERB", "PERI", "LOCB", "LOCI", "O"],
}
PLAIN = {
    "parts of speech": ["NOUN", "VERB", "DET", "X"],
    "a dash in a name": ["X-RAY", "PROPN", "O"],
    "sizes": ["M", "XL", "O"],
    "words that begin so": ["IN", "NN", "VB", "O"],
    "positions": ["IN", "OUT", "O"],
}


def built(tags: list[list[str]], **options: Any) -> topwork.TaskModel:
    rows = [{"words": [f"w{index}" for index in range(len(row))], "tags": row} for row in tags]
    return topwork.build("token-classification", {"config": {"model_type": "bert", **BERT}}, rows=rows, **options)


def score(task: Any, true: list[str], predicted: list[str]) -> dict[str, Any]:
    prediction = TagPrediction()
    prediction.tags = predicted
    metric = task.metric()
    metric.update({"words": [f"w{index}" for index in range(len(true))], "tags": true}, prediction)
    return metric.result()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_entities_are_whole_in_every_spelling(spelling, strict):
    """Of two entities one is right: the example of seqeval's issue 46."""
    begin, inside, outside = SPELLINGS[spelling].split()
    letters = {"B": begin, "I": inside, "O": outside}
    true, predicted = ([letters[letter] for letter in tags] for tags in ("OBIIOB", "OBIOOB"))
    task = built([true, [letters[letter] for letter in "BIO"]], strict=strict).task
    assert task.scheme == "IOB2"
    dashed = {"B": "B-X", "I": "I-X", "O": "O"}
    expected = seqeval.metrics.f1_score(*([[dashed[letter] for letter in tags]] for tags in ("OBIIOB", "OBIOOB")))
    assert score(task, true, predicted)["f1"] == pytest.approx(expected) == 0.5


@pytest.mark.parametrize("spelling", LONG_SPELLINGS)
def test_schemes_with_ends_and_singles_are_read_in_every_spelling(spelling):
    single, long = LONG_SPELLINGS[spelling]
    outside = "o" if single.islower() else "O"
    true = [outside, *long.split(), outside, single]
    predicted = [outside, *long.split()[:2], outside, outside, single]
    task = built([true, [outside, single]]).task
    assert task.scheme == "IOBES"
    assert score(task, true, predicted)["f1"] == 0.5
    assert score(task, true, true)["f1"] == 1.0


@pytest.mark.parametrize("case", REFUSED)
def test_tags_that_may_or_may_not_be_chunks_are_refused(case):
    with pytest.raises(DataError, match=r"prefix|separator") as caught:
        built([REFUSED[case]])
    assert "scheme" in caught.value.hint
    assert built([REFUSED[case]], scheme="plain").task.scheme == "plain"


SPELLED = ["BEGIN-PER INSIDE-PER", "Begin Inside", "BEG_PER IN_PER", "<B-PER> <I-PER>", "[B]PER [I]PER",
           "\uff22-PER \uff29-PER", "PER/begin PER/inside"]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLED)
def test_chunk_letters_that_are_spelled_otherwise_are_refused(spelling):
    begin, inside = spelling.split()
    with pytest.raises(DataError, match="look like a chunk scheme") as caught:
        built([["O", begin, inside, "O"]])
    assert "label_names" in caught.value.hint
    names = {begin: "B-PER", inside: "I-PER", "O": "O"}
    assert built([["O", begin, inside, "O"]], label_names=names).task.scheme == "IOB2"


@pytest.mark.parametrize("case", PLAIN)
def test_tags_without_chunk_letters_are_plain(case):
    assert built([PLAIN[case]]).task.scheme == "plain"


@pytest.mark.parametrize("spelling", ["prefix -", "suffix _", "alone", "prefix, all in lower case"])
def test_later_tokens_of_a_word_learn_the_continuing_tag_in_every_spelling(spelling):
    begin, inside, outside = SPELLINGS[spelling].split()
    rows = [{"words": ["abcdefgh", "x"], "tags": [begin, outside]}, {"words": ["x", "y"], "tags": [begin, inside]}]
    tokenizer = {"vocab_size": 8, "min_frequency": 1}  # letters alone
    config = {"config": {"model_type": "bert", **BERT}}
    task = topwork.build("token-classification", config, rows=rows, sub_words="all", tokenizer=tokenizer).task
    (item,) = task.encode(rows[:1], "loss", 0)
    learned = [task.names[label] for label in item.inputs["labels"] if label != -100]
    assert learned == [begin, *[inside] * 7, outside]


# ---------------------------------------------------------------- predictions and metrics agree


POS = ["NOUN", "VERB", "DET", "ADJ"]
IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
WORDS = ["what", "if", "google", "morphed", "into", "googleos", "mein", "haus", "bletchley", "unbelievably"]


def random_rows(names: list[str], seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(24):
        words = [draw.choice(WORDS) for _ in range(draw.randint(1, 9))]
        rows.append({"words": words, "tags": [draw.choice(names) for _ in words]})
    return rows


def unsure(rows: list[dict[str, Any]], **options: Any) -> topwork.TaskModel:
    """A model whose tokens of one word often have different tags."""
    torch.manual_seed(5)
    tokenizer = {"vocab_size": 40, "min_frequency": 1}
    config = {"config": {"model_type": "bert", **BERT}}
    work = topwork.build("token-classification", config, rows=rows, tokenizer=tokenizer, **options)
    with torch.no_grad():
        work.model.classifier.weight.mul_(60)
    return work


@pytest.mark.parametrize("aggregation", ["default", "first", "average", "max"])
@pytest.mark.parametrize("names", [POS, IOB], ids=["plain", "IOB2"])
def test_rows_of_words_are_answered_with_one_tag_a_word_that_evaluate_scores(names, aggregation, tmp_path):
    rows = random_rows(names)
    options = {"scheme": "IOB2"} if names is IOB else {}
    work = unsure(rows, **options, **({} if aggregation == "default" else {"aggregation": aggregation}))
    work.apply("predict", {"predict": rows}, run_folder=tmp_path)
    (file,) = tmp_path.rglob("predictions.jsonl")
    written = [json.loads(line)["prediction"] for line in file.read_text().splitlines()]
    for row, entries in zip(rows, written, strict=True):
        assert [entry["word"] for entry in entries] == row["words"]
        assert [entry["index"] for entry in entries] == list(range(len(row["words"])))
    predicted = [[entry["entity"] for entry in entries] for entries in written]
    true = [row["tags"] for row in rows]
    found = work.evaluate(rows)
    assert found["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(true, predicted))
    if names is IOB:
        assert found["f1"] == pytest.approx(seqeval.metrics.f1_score(true, predicted))
        assert found["precision"] == pytest.approx(seqeval.metrics.precision_score(true, predicted))
    tokens = unsure(rows, **options, aggregation="none").predict(rows)
    assert names is IOB or sum(map(len, tokens)) > sum(map(len, written))  # words of several tokens


def test_aggregations_differ_and_are_those_of_the_tokens():
    rows = random_rows(POS)
    by_way = {way: unsure(rows, aggregation=way).predict(rows) for way in ("first", "average", "max")}
    tags = {way: [entry["entity"] for entries in found for entry in entries] for way, found in by_way.items()}
    assert tags["first"] != tags["max"] and tags["first"] != tags["average"]
    work = unsure(rows, aggregation="none")
    for row, firsts, largest in zip(rows, by_way["first"], by_way["max"], strict=True):
        (tokens,) = work.predict([row])
        for entry, top in zip(firsts, largest, strict=True):
            inside = [token for token in tokens if entry["start"] <= token["start"] < entry["end"]]
            assert (entry["entity"], entry["score"]) == (inside[0]["entity"], pytest.approx(inside[0]["score"]))
            best = max(inside, key=lambda token: token["score"])
            assert (top["entity"], top["score"]) == (best["entity"], pytest.approx(best["score"]))


@pytest.mark.parametrize("aggregation", ["default", "first", "average", "max", "simple"])
def test_entities_of_texts_are_those_that_evaluate_scores(aggregation):
    draw = random.Random(1)
    rows = []
    for _ in range(20):
        words = [draw.choice(WORDS) for _ in range(draw.randint(2, 9))]
        text = " ".join(words)
        first = draw.randrange(len(words))
        start = len(" ".join(words[:first])) + (first > 0)
        spans = [{"start": start, "end": start + len(words[first]), "label": draw.choice(["PER", "LOC"])}]
        rows.append({"text": text, "spans": spans})
    work = unsure(rows, **({} if aggregation == "default" else {"aggregation": aggregation}))
    true, predicted = set(), set()
    for index, (row, entities) in enumerate(zip(rows, work.predict(rows), strict=True)):
        true |= {(index, span["label"], span["start"], span["end"]) for span in row["spans"]}
        predicted |= {(index, entity["entity_group"], entity["start"], entity["end"]) for entity in entities}
    right = len(true & predicted)
    assert work.evaluate(rows)["f1"] == pytest.approx(2 * right / (len(true) + len(predicted)))
    assert right or aggregation == "simple"  # where tokens of one word have different tags
