"""token-classification: scores equal to seqeval's, predictions equal to the pipeline's, windows, schemes, bad input."""

from __future__ import annotations

import json
import math
import random

import datasets
import pytest
import seqeval.metrics
import seqeval.scheme
import torch
import transformers
from tiny_bases import PAIR
from tiny_bases import TEXT as SMALL
from tolerance import about, close

import topwork
from topwork import DataError, TopworkError, UsageError
from topwork.testing import check_task
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer
from topwork_tasks._text.windows import first_tokens, text_windows
from topwork_tasks._text.words import find_words
from topwork_tasks.token_classification.entities import (
    EntityMetric,
    detect_scheme,
    entities,
    span_tags,
    strict_entities,
)
from topwork_tasks.token_classification.predictions import TagPrediction
from topwork_tasks.token_classification.task import TokenClassification

BASES = {
    "bert": SMALL,
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64},
    "roberta": SMALL,
    "deberta-v2": SMALL,
    "modernbert": SMALL,
    "bert-generation": {**SMALL, "is_decoder": False},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "bart": PAIR,
    "t5": {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 64, "d_kv": 8},
}
GENERIC = {"bert-generation", "bart"}
ROWS = TokenClassification.example_rows()
NAMES = ["O", "B-LOC", "I-LOC", "B-ORG", "B-PER", "I-PER"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder that plain transformers wrote, with a trained task head."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("bert")
    texts = [" ".join(row["words"]) for row in ROWS] * 2
    tokenizer = learn_tokenizer(texts, TokenizerOptions(vocab_size=60, min_frequency=1))
    tokenizer.model_max_length = 32
    config = transformers.BertConfig(
        **SMALL, vocab_size=len(tokenizer), id2label=dict(enumerate(NAMES)), max_position_embeddings=32
    )
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_scores_equal_seqeval():
    draw = random.Random(0)
    for scheme, tags in [
        ("IOB2", "O B-A I-A B-B I-B"),
        ("IOB1", "O B-A I-A I-B"),
        ("IOBES", "O B-A I-A E-A S-A S-B E-B"),
    ]:
        true = [[draw.choice(tags.split()) for _ in range(draw.randint(1, 12))] for _ in range(60)]
        said = [[tag if draw.random() < 0.6 else draw.choice(tags.split()) for tag in row] for row in true]
        halves = [EntityMetric(lambda row: (row["tags"], []), scheme) for _ in range(2)]
        for number, (one, other) in enumerate(zip(true, said)):
            prediction = TagPrediction()
            prediction.tags = other
            halves[number % 2].update({"tags": one}, prediction)
        halves[0].merge(halves[1])
        found = halves[0].result()
        assert found["precision"] == pytest.approx(seqeval.metrics.precision_score(true, said))
        assert found["recall"] == pytest.approx(seqeval.metrics.recall_score(true, said))
        assert found["f1"] == pytest.approx(seqeval.metrics.f1_score(true, said))
        assert found["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(true, said))
        report = seqeval.metrics.classification_report(true, said, output_dict=True, zero_division=0)
        for entry in found["per_type"]:
            expected = report[entry["type"]]
            assert entry["f1"] == pytest.approx(expected["f1-score"])
            assert entry["support"] == expected["support"]


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "IOBES"])
def test_strict_scores_equal_seqeval_s_strict_mode(scheme):
    draw = random.Random(0)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in ("BIES" if scheme == "IOBES" else "BI") for kind in "AB")]
    true = [[draw.choice(tags) for _ in range(draw.randint(1, 12))] for _ in range(200)]
    said = [[tag if draw.random() < 0.6 else draw.choice(tags) for tag in row] for row in true]
    strict, lenient = EntityMetric(None, scheme, strict_entities), EntityMetric(None, scheme)
    for metric in (strict, lenient):
        metric.truth = lambda row: (row["tags"], [])
        for one, other in zip(true, said):
            prediction = TagPrediction()
            prediction.tags = other
            metric.update({"tags": one}, prediction)
    found = strict.result()
    report = seqeval.metrics.classification_report(
        true, said, output_dict=True, zero_division=0, mode="strict", scheme=getattr(seqeval.scheme, scheme)
    )
    for key, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert found[key] == pytest.approx(report["micro avg"][theirs])
    for entry in found["per_type"]:
        assert entry["f1"] == pytest.approx(report[entry["type"]]["f1-score"])
        assert entry["support"] == report[entry["type"]]["support"]
    assert found["f1"] != pytest.approx(lenient.result()["f1"])


def test_reading_schemes():
    assert entities(str.split("B-P I-P O S-L"), "IOBES") == [("P", 0, 2), ("L", 3, 4)]
    assert entities(str.split("U-L B-P L-P"), "IOBES") == [("L", 0, 1), ("P", 1, 3)]
    assert entities(str.split("NOUN NOUN O VERB"), "plain") == [("NOUN", 0, 1), ("NOUN", 1, 2), ("VERB", 3, 4)]
    assert detect_scheme(["O", "B-P", "I-P"], [["B-P", "I-P", "B-P"]]) == "IOB2"
    assert detect_scheme(["O", "B-P", "I-P"], [["I-P", "B-P", "O", "I-P"]]) == "IOB1"
    assert detect_scheme(["O", "S-P"], []) == "IOBES"
    assert detect_scheme(["O", "NOUN", "X-RAY"], []) == "plain"
    with pytest.raises(DataError, match="neither plainly IOB1 nor IOB2"):
        detect_scheme(["O", "B-P", "I-P"], [["O", "I-P", "O", "B-P"]])
    with pytest.raises(DataError, match="some tags have a prefix"):
        detect_scheme(["O", "B-P", "NOUN"], [])


def test_metric_without_rows_is_nan():
    metric = EntityMetric(None, "IOB2")
    assert all(math.isnan(metric.result()[key]) for key in metric.keys)


@pytest.mark.parametrize("aggregation", ["simple", "none"])
def test_predictions_equal_the_pipeline(written, aggregation):
    work = topwork.build("token-classification", str(written), aggregation=aggregation)
    texts = [
        "Ada Lovelace lived in London.",
        "Acme hired Alan and Grace",
        "New York",
        "Ada met \U0001f98a in \u6771\u4eac",
    ]
    pipe = transformers.pipeline("token-classification", model=str(written), aggregation_strategy=aggregation)
    expected = pipe(texts)
    found = work.predict([{"text": text} for text in texts])
    assert sum(map(len, expected)) > 3
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.pop("score") == about(float(other.pop("score")))
            assert one == other
    json.dumps(found)


def test_loss_equals_the_native_class(written):
    work = topwork.build("token-classification", str(written), rows=ROWS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    encoded = tokenizer([row["words"] for row in ROWS], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full_like(encoded["input_ids"], -100)
    for number, row in enumerate(ROWS):
        before = None
        for place, word in enumerate(encoded.word_ids(number)):
            if word is not None and word != before:
                labels[number, place] = NAMES.index(row["tags"][word])
            before = word
    plain = transformers.AutoModelForTokenClassification.from_pretrained(written)
    batch = work.task.collate(work.task.encode(ROWS, "loss", 0), "loss")
    assert torch.equal(batch.inputs["labels"], labels)
    close(work.task.loss(work.model, batch), plain(**encoded, labels=labels).loss)


def test_windows_own_every_token_once(written):
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    text = " ".join(" ".join(row["words"]) for row in ROWS)
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for length, stride in [(12, 0), (12, 3), (13, 4), (32, 8), (None, 0)]:
        (found,) = text_windows(tokenizer, [text], ["input_ids"], length, stride)
        assert [offset for piece in found for offset in piece.offsets] == whole["offset_mapping"]
        owned = [piece.inputs["input_ids"][place] for piece in found for place in piece.positions]
        assert owned == whole["input_ids"]
        assert [piece.first for piece in found] == [
            sum(len(earlier.positions) for earlier in found[:number]) for number in range(len(found))
        ]
    with pytest.raises(UsageError, match="stride"):
        text_windows(tokenizer, [text], ["input_ids"], 12, 10)
    assert text_windows(tokenizer, ["", "a"], ["input_ids"], 12, 2)[0] == []


def test_long_rows_have_a_tag_for_every_word(written):
    work = topwork.build("token-classification", str(written), rows=ROWS)
    row = {"words": ROWS[0]["words"] * 20, "tags": ROWS[0]["tags"] * 20}
    assert len(work.task.encode([row], "loss", 0)) > 3
    (prediction,) = work.predict([row])
    assert len(prediction.tags) == 120
    labels = [label for item in work.task.encode([row], "loss", 0) for label in item.inputs["labels"] if label != -100]
    assert labels == [NAMES.index(tag) for tag in row["tags"]]


def test_text_with_spans():
    text = "Ada lives in New York, since 1842."
    spans = [{"start": 0, "end": 3, "label": "PER"}, {"start": 13, "end": 21, "label": "LOC"}]
    words = find_words(text)
    tags, _ = span_tags(words, [(span["label"], span["start"], span["end"]) for span in spans])
    assert [text[start:end] for start, end in words] == str.split("Ada lives in New York , since 1842 .")
    assert tags == str.split("B-PER O O B-LOC I-LOC O O O O")
    rows = [{"text": text, "spans": spans}, {"text": "Ada left.", "spans": spans[:1]}, {"text": "", "spans": []}]
    work = topwork.build("token-classification", {"config": {"model_type": "bert", **SMALL}}, rows=rows)
    assert (work.task.names, work.task.scheme) == (["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], "IOB2")
    found = work.evaluate(rows)
    assert 0 <= found["f1"] <= 1
    truth = TagPrediction()
    truth.spans = [("PER", 0, 3), ("LOC", 13, 21)]
    metric = work.task.metric()
    metric.update(rows[0], truth)
    assert metric.result()["f1"] == 1
    assert work.predict([{"text": ""}]) == [[]]


def test_every_word_has_its_first_token():
    assert first_tokens([(0, 3), (4, 6), (7, 7), (8, 9)], [(0, 2), (2, 3), (4, 6), (8, 9)]) == [0, 2, None, 3]


def test_sub_words_all_continue_the_tag(written):
    first, every = (
        topwork.build("token-classification", str(written), rows=ROWS, sub_words=way) for way in ("first", "all")
    )
    row = {"words": ["Bletchley", "Lovelace"], "tags": ["B-LOC", "B-PER"]}
    one, other = (work.task.encode([row], "loss", 0)[0].inputs["labels"] for work in (first, every))
    assert [label for label in one if label != -100] == [1, 4]
    learned = [label for label in other if label != -100]
    assert learned[0] == 1 and set(learned[1 : learned.index(4)]) == {2} and set(learned[learned.index(4) + 1 :]) == {5}


def test_integers_are_named_by_the_data_set():
    features = datasets.Features(
        {
            "words": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "VERB", "NOUN"])),
        }
    )
    rows = datasets.Dataset.from_dict({"words": [["dogs", "bark"], ["go"]], "tags": [[2, 1], [1]]}, features=features)
    work = topwork.build("token-classification", {"config": {"model_type": "bert", **SMALL}}, rows=rows)
    assert (work.task.names, work.task.scheme) == (["O", "VERB", "NOUN"], "plain")
    assert 0 <= work.evaluate(rows)["accuracy"] <= 1


@pytest.mark.parametrize("kind", BASES)
def test_contract_on_native_and_generic_task_heads(kind, tmp_path, plugins):
    work = check_task(TokenClassification, {"config": {"model_type": kind, **BASES[kind]}}, tmp_path, plugins=plugins)
    assert work.form == ("generic" if kind in GENERIC else "native")


BAD = {
    "no words": ({"tags": ["O"]}, "words", "missing"),
    "words are a string": ({"words": "Ada", "tags": ["O"]}, "words", "no list of strings"),
    "words are numbers": ({"words": [1], "tags": ["O"]}, "words", "no list of strings"),
    "text is a number": ({"text": 3, "spans": []}, "text", "not text"),
    "no tags": ({"words": ["Ada"]}, "tags", "missing"),
    "tags are a string": ({"words": ["Ada"], "tags": "O"}, "tags", "no list"),
    "too few tags": ({"words": ["Ada", "left"], "tags": ["O"]}, "tags", "1 tags for 2 words"),
    "unknown tag": ({"words": ["Ada"], "tags": ["B-PEE"]}, "tags", "did you mean"),
    "no spans": ({"text": "Ada"}, "spans", "missing"),
    "span outside": ({"text": "Ada", "spans": [{"start": 0, "end": 9, "label": "PER"}]}, "spans", "does not lie"),
    "empty span": ({"text": "Ada", "spans": [{"start": 1, "end": 1, "label": "PER"}]}, "spans", "does not lie"),
    "broken span": ({"text": "Ada", "spans": [{"start": 1}]}, "spans", "is no span"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_with_row_and_column(written, case):
    row, column, message = BAD[case]
    task = topwork.build("token-classification", str(written), rows=ROWS).task
    with pytest.raises(DataError, match=message) as caught:
        task.encode([ROWS[0], row], "loss", 0)
    assert (caught.value.row, caught.value.column) == (1, column)
    assert caught.value.hint


def test_what_cannot_be_learned_is_said():
    with pytest.raises(TopworkError, match="tags are not known"):
        topwork.build("token-classification", {"config": {"model_type": "bert", **SMALL}})


def test_words_without_tokens_are_outside(written):
    work = topwork.build("token-classification", str(written), rows=ROWS)
    (prediction,) = work.predict([{"words": ["Ada", "", "left"]}])
    assert len(prediction.tags) == 3 and prediction.tags[1] == "O"
    assert work.predict([{"words": []}]) == [[]]


def test_pictures_show_what_is_wrong(written):
    task = topwork.build("token-classification", str(written), rows=ROWS).task
    prediction = TagPrediction()
    prediction.spans = [("PER", 0, 12), ("LOC", 13, 18)]
    picture = task.draw(ROWS[0], prediction)
    assert ("Ada Lovelace [PER]", "right") in picture.text and ("lived [LOC]", "wrong") in picture.text
    assert ("London [LOC]", "truth") in picture.text
    assert picture.badness == pytest.approx(2 / 3)
