"""question-answering: windows, targets, equality with transformers' loss and with a brute-force search over spans."""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers
from tiny_bases import TEXT as SMALL
from tolerance import about, close

from topwork import BaseOptions, DataError, UsageError
from topwork_bases.transformers.base import load_base
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer
from topwork_tasks._text.windows import context_windows, span_in
from topwork_tasks.question_answering.squad import SquadMetric, best_spans, f1, normalise
from topwork_tasks.question_answering.task import QuestionAnswering

ROWS = QuestionAnswering.example_rows()


def build(base_options=None, rows=ROWS, **options):
    torch.manual_seed(0)
    base_options = BaseOptions(**(base_options or {"config": {"model_type": "bert", **SMALL}}))
    base = load_base(base_options.model or f"config:{base_options.config['model_type']}", base_options)
    options = QuestionAnswering.Options(tokenizer={"min_frequency": 1}, **options)
    task = QuestionAnswering({"base": base}, options, QuestionAnswering.learn(rows, {"base": base}, options))
    return task, task.build().eval()


def predict(task, model, rows):
    predictions = []
    for row in rows:
        items = task.encode([row], "predict", 0)
        with torch.no_grad():
            predictions.append(task.merge(row, task.predict(model, task.collate(items, "predict"))))
    return predictions


def test_windows_cover_the_context_and_share_the_stride():
    tokenizer = learn_tokenizer((row["context"] for row in ROWS), TokenizerOptions(min_frequency=1))
    context = " ".join(row["context"] for row in ROWS)
    (found,) = context_windows(tokenizer, ["Where?"], [context], ["input_ids"], 24, 5)
    covered = [set(range(*span)) for window in found for span in window.offsets]
    assert set().union(*covered) >= {index for index, letter in enumerate(context) if not letter.isspace()}
    assert all(len(window.inputs["input_ids"]) <= 24 for window in found)
    for before, after in itertools.pairwise(found):
        assert before.offsets[-5:] == after.offsets[:5]
    for window in found:
        for place, (start, end) in enumerate(window.offsets[:3]):
            assert span_in(window, start, end) == (window.first + place, window.first + place)
            word = tokenizer.convert_ids_to_tokens(window.inputs["input_ids"][window.first + place]).removeprefix("##")
            assert context[start:end].lower() == word


@pytest.mark.parametrize("stride", [0, 5, 10_000])
def test_a_stride_or_question_that_does_not_fit_is_cut(stride):
    """The Rust tokenizer would panic, which no `except Exception` catches."""
    task, model = build(max_length=16, stride=stride)
    row = {**ROWS[0], "question": "Where does Ada live? " * 30}
    (prediction,) = predict(task, model, [row])
    assert row["context"][prediction["start"] : prediction["end"]] == prediction["answer"]
    task, _ = build(max_length=4)
    with pytest.raises(UsageError, match="no room"):
        task.encode([row], "predict", 0)


def test_targets_point_at_the_answer_in_every_window():
    task, _ = build(max_length=16, stride=4)
    hits = 0
    for item in task.encode(ROWS, "train", 0):
        first, offsets, null = item.extra
        start, end = item.inputs["span"]
        answers = ROWS[item.row]["answers"]["text"]
        if start == null:
            continue
        context = ROWS[item.row]["context"]
        assert context[offsets[start - first][0] : offsets[end - first][1]] == answers[0]
        hits += 1
    assert hits >= len(ROWS) - 1


@pytest.mark.parametrize("side", ["right", "left"])
def test_loss_equals_the_native_class(side):
    task, model = build()
    task.tokenizer.padding_side = side
    batch = task.collate(task.encode(ROWS, "loss", 0), "loss")
    alone = [task.collate(task.encode([row], "loss", 0), "loss") for row in ROWS]  # without padding, which counts there
    with torch.no_grad():
        native = torch.stack([model(**single.inputs).loss for single in alone])
        together = task.row_losses(model, batch)
        close(together, native)
        if side == "right":
            close(task.loss(model, batch), native.mean())
        close(together, super(QuestionAnswering, task).row_losses(model, batch))


def test_row_losses_over_windows_are_those_of_rows_alone():
    task, model = build(max_length=16, stride=4)
    items = task.encode(ROWS, "loss", 0)
    assert len(items) > len(ROWS)
    batch = task.collate(items, "loss")
    with torch.no_grad():
        alone = super(QuestionAnswering, task).row_losses(model, batch)
        close(task.row_losses(model, batch), alone)


def test_best_spans_equal_a_search_over_all():
    torch.manual_seed(1)
    start, end = torch.randn(12), torch.randn(12)
    spans = [(float(start[a] + end[b]), a, b) for a in range(12) for b in range(a, min(12, a + 4))]
    found = best_spans(start, end, 12, 4)
    assert [entry[1:] for entry in found] == [entry[1:] for entry in sorted(spans, reverse=True)[:12]]
    assert best_spans(start[:0], end[:0], 5, 5) == []
    # the best ends stand before the best starts: no pair of those is a span
    start, end = torch.arange(12.0), -torch.arange(12.0) * 1.5
    spans = [(float(start[a] + end[b]), a, b) for a in range(12) for b in range(a, min(12, a + 4))]
    assert best_spans(start, end, 3, 4) == [(0.0, 0, 0), (-0.5, 1, 1), (-1.0, 2, 2)] == sorted(spans, reverse=True)[:3]


def test_windows_compete_and_no_answer_wins_by_its_threshold():
    row = {"question": "?", "context": "red green blue"}
    parts = [{"spans": [(2.0, 0, 3), (1.0, 4, 9)], "null": 5.0}, {"spans": [(3.0, 9, 14), (0.5, 4, 9)], "null": 3.5}]
    task, _ = build(top_k=4)
    found = task.merge(row, parts)
    assert [answer["answer"] for answer in found] == ["", "blue", "red", "green"]
    weights = torch.tensor([3.5, 3.0, 2.0, 1.0]).softmax(0)
    assert [answer["score"] for answer in found] == about(weights.tolist())
    task, _ = build(null_threshold=1.0)
    assert task.merge(row, parts) == {
        "score": about(float(weights[1])),
        "start": 10,
        "end": 14,
        "answer": "blue",
    }
    task, _ = build(no_answer=False)
    assert task.merge(row, parts)["answer"] == "blue"


KINDS = {
    "bert": SMALL,
    "roberta": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 4},
    "bert-generation": {**SMALL, "is_decoder": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_overfits_native_and_generic_task_heads(kind):
    task, model = build({"config": {"model_type": kind, **KINDS[kind]}}, stride=2)
    batch = task.collate(task.encode(ROWS, "train", 0), "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = [float(task.loss(model, batch).detach())]
    while losses[-1] > losses[0] / 50 and len(losses) < 500:
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] <= losses[0] / 50
    assert not [name for name, value in model.named_parameters() if value.grad is None]
    metric = task.metric()
    for row, prediction in zip(ROWS, predict(task, model, ROWS)):
        metric.update(row, prediction)
    assert metric.result()["exact_match"] > 0.8
    picture = task.draw(ROWS[0], prediction := predict(task, model, ROWS[:1])[0])
    assert (
        "".join(piece for piece, mark in picture.text if mark in ("", "right", "wrong")).strip() == ROWS[0]["context"]
    )
    assert task.units(task.encode(ROWS[:1], "predict", 0)[0]).special
    assert prediction.keys() == {"score", "start", "end", "answer"}


def test_answers_are_compared_as_squad_does():
    assert normalise("The  Eiffel-Tower!") == "eiffeltower"
    assert normalise("a theatre, an anthem") == "theatre anthem"
    assert f1(normalise("the big red dog"), normalise("red dog house")) == pytest.approx(
        2 * (2 / 3) * (2 / 3) / (4 / 3)
    )
    assert (f1("", ""), f1("", "x"), f1("x", "")) == (1, 0, 0)
    metric, other = SquadMetric(), SquadMetric()
    metric.update({"answers": {"text": ["Lima", "in Lima"]}}, {"answer": "in lima"})
    metric.update({"answers": {"text": ["Oslo"]}}, {"answer": ""})
    other.update({"answers": {"text": []}}, [{"answer": ""}, {"answer": "x"}])
    other.update({"answers": {"text": []}}, {"answer": "Rome"})
    metric.merge(other)
    assert metric.result() == {
        "exact_match": 0.5,
        "f1": 0.5,
        "has_answer_exact_match": 0.5,
        "has_answer_f1": 0.5,
        "no_answer_accuracy": 0.5,
    }


NONE = {"text": [], "answer_start": []}


def asked(context, text, start):
    return {"question": "a", "context": context, "answers": {"text": text, "answer_start": start}}


BAD = {
    "missing question": ({"context": "a", "answers": NONE}, "question", "missing"),
    "empty context": ({"question": "a", "context": " ", "answers": NONE}, "context", "empty"),
    "no answers": ({"question": "a", "context": "a"}, "answers", "missing"),
    "answers are a number": ({"question": "a", "context": "a", "answers": 7}, "answers", "shape"),
    "a text that is not there": ({"question": "a", "context": "a", "answers": "b"}, "answers", "stand in the context"),
    "lists differ": (asked("a", ["a"], []), "answers", "1 texts"),
    "misplaced": (asked("abc", ["c"], [1]), "answers", "does not stand"),
    "negative": (asked("abc", ["c"], [-1]), "answers", "does not stand"),
    "empty answer": (asked("abc", [""], [0]), "answers", "does not stand"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused(case):
    row, column, message = BAD[case]
    task, _ = build()
    with pytest.raises(DataError, match=message) as caught:
        task.encode([ROWS[0], row], "loss", 0)
    assert (caught.value.row, caught.value.column) == (1, column)


def test_empty_question_is_handled():
    task, model = build()
    assert predict(task, model, [{"question": "", "context": "Ada lives in Lima."}])


def test_folder_of_plain_transformers_is_a_base(tmp_path):
    torch.manual_seed(2)
    tokenizer = learn_tokenizer((row["context"] for row in ROWS), TokenizerOptions(min_frequency=1))
    plain = transformers.BertForQuestionAnswering(transformers.BertConfig(**SMALL, vocab_size=len(tokenizer))).eval()
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    task, model = build({"model": str(tmp_path)}, rows=None)
    encoded = tokenizer(ROWS[0]["question"], ROWS[0]["context"], return_tensors="pt", return_offsets_mapping=True)
    offsets, sides = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
    with torch.no_grad():
        outputs = plain(**encoded)
    start, end = outputs.start_logits[0], outputs.end_logits[0]
    spans = [
        (float(start[a] + end[b]), offsets[a][0], offsets[b][1])
        for a in range(len(sides))
        for b in range(a, min(len(sides), a + 30))
        if sides[a] == sides[b] == 1
    ]
    best = max(spans)
    (found,) = predict(task, model, ROWS[:1])
    assert (found["start"], found["end"]) == best[1:]
    task, model = build({"model": str(tmp_path)}, rows=None, no_answer=True, top_k=500, n_best=500)
    (found,) = predict(task, model, ROWS[:1])
    (null,) = [answer for answer in found if not answer["answer"]]
    scores = torch.tensor([score for score, *_ in spans] + [float(start[0] + end[0])])
    assert null["score"] == about(float(scores.softmax(0)[-1]))
