"""Odd rows of the text tasks of one sequence: within the model's positions, a prediction and a finite loss of their own
(test_bad_input.py has the whole table). And generated texts that come piece by piece."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tiny_bases import PAIR
from tolerance import about, close

import topwork
from topwork import UsageError

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
CONFIGS = {"text-classification": BERT, "question-answering": BERT, "text-generation": GPT2}
LONG = "a warm and generous film that we loved from the first scene to the last minute " * 20
NONE = {"text": [], "answer_start": []}
NEW = {"generation": {"max_new_tokens": 6}}

HANDLED = {
    ("text-classification", "empty text"): {"text": "", "label": "good"},
    ("text-classification", "blank text"): {"text": " \n ", "label": "good"},
    ("text-classification", "text longer than the model"): {"text": LONG, "label": "bad"},
    ("text-classification", "pair longer than the model"): {"text": "short", "text_pair": LONG, "label": "bad"},
    ("text-classification", "no second text"): {"text": "short", "text_pair": None, "label": "bad"},
    ("text-classification", "unknown letters"): {"text": "\u65e5\u672c\u8a9e \U0001f600 \x00", "label": "bad"},
    ("question-answering", "empty question"): {"question": "", "context": "Ada lives in Lima.", "answers": NONE},
    ("question-answering", "question longer than a window"): {
        "question": LONG,
        "context": "Ada lives in Lima.",
        "answers": {"text": ["Lima"], "answer_start": [13]},
    },
    ("question-answering", "context longer than the model"): {
        "question": "Where?",
        "context": LONG + "Ada lives in Lima.",
        "answers": {"text": ["Lima"], "answer_start": [len(LONG) + 13]},
    },
    ("question-answering", "no answer"): {"question": "Who?", "context": "Ada lives in Lima.", "answers": NONE},
    ("text-generation", "empty text"): {"text": ""},
    ("text-generation", "empty prompt"): {"prompt": "", "completion": " rot"},
    ("text-generation", "empty completion"): {"prompt": "red =", "completion": ""},
    ("text-generation", "text longer than the model"): {"text": LONG},
    ("text-generation", "prompt longer than the model"): {"prompt": LONG, "completion": " rot"},
    ("text-generation", "completion longer than the model"): {"prompt": "red =", "completion": LONG},
}


@cache
def built(task: str):
    plugins = topwork.load_plugins()
    rows = plugins.task(task).example_rows()
    options = NEW if task == "text-generation" else {}
    model = topwork.build(
        task,
        {"config": CONFIGS[task]},
        rows=rows,
        plugins=plugins,
        tokenizer={"vocab_size": 200, "min_frequency": 1},
        **options,
    )
    return model, rows


@pytest.mark.parametrize(("task", "case"), HANDLED, ids=lambda name: name)
def test_odd_rows_are_handled(task, case):
    model, rows = built(task)
    row = HANDLED[task, case]
    alone = [row] if row.keys() == rows[0].keys() else None
    metrics = model.evaluate(alone or [row, {**row}])
    assert metrics.keys() >= set(model.task.metric().keys)
    (prediction,) = model.predict([{key: value for key, value in row.items() if key not in ("label", "answers")}])
    assert prediction
    items = model.task.encode([row], "loss", 0)
    limit = 32 if task != "text-generation" else 64
    assert items and all(item.cost <= limit for item in items)
    with torch.no_grad():
        losses = model.task.row_losses(model.model.eval(), model.task.collate(items, "loss"))
    assert losses.shape == (1,) and bool(torch.isfinite(losses).all())


def test_single_texts_beside_pairs_on_bart():
    """BART's own class refuses a batch whose texts have different numbers of end tokens."""
    config = {"model_type": "bart", **PAIR, "max_position_embeddings": 64}
    rows = [{"text": f"one {n}", "text_pair": None if n % 2 else "two", "label": "abc"[n % 3]} for n in range(6)]
    model = topwork.build("text-classification", {"config": config}, rows=rows)
    together = model.predict(rows)
    for row, expected in zip(rows, together):
        (alone,) = model.predict([row])
        assert alone.scores == about(expected.scores)
    batch = model.task.collate(model.task.encode(rows, "loss", 0), "loss")
    mean = model.task.row_losses(model.model, batch).mean()
    close(model.task.loss(model.model, batch), mean)


# ---------------------------------------------------------------- texts that come piece by piece


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}, {"stop": ["o", "e t"]}], ids=str)
def test_pieces_joined_are_the_completion(options):
    _, rows = built("text-generation")
    model = topwork.build(
        "text-generation", {"config": GPT2}, rows=rows, generation={"max_new_tokens": 12, **options}, seed=1
    )
    for row in rows[:3]:
        asked = {"prompt": row["prompt"]}
        (expected,) = model.predict([asked])
        pieces = list(model.task.stream(model.model, asked))
        assert "".join(pieces) == expected.completion
        assert all(pieces)
    threads = model.task.stream(model.model, {"prompt": rows[0]["prompt"]})
    next(threads, None)
    threads.close()  # a reader who leaves ends the writer too


def test_beams_cannot_be_streamed():
    _, rows = built("text-generation")
    model = topwork.build("text-generation", {"config": GPT2}, rows=rows, generation={"num_beams": 2})
    with pytest.raises(UsageError, match="beams"):
        list(model.task.stream(model.model, rows[0]))


def test_predictions_come_one_by_one():
    """With `ahead=1` a row is answered before the next one is read, and the answers are the same."""
    model, rows = built("text-generation")
    asked, seen = [{"prompt": row["prompt"]} for row in rows], []
    encode = model.task.encode
    model.task.encode = lambda rows, mode, seed: (seen.extend(rows), encode(rows, mode, seed))[1]
    try:
        for number, _, prediction in model.predictions(asked, ahead=1):
            assert len(seen) == number + 1
            assert prediction[0]["generated_text"].startswith(asked[number]["prompt"])
    finally:
        del model.task.encode
    assert [found for _, _, found in model.predictions(asked, ahead=2)] == model.predict(asked)


def test_a_text_ends_at_any_end_token_of_the_model():
    """Chat models have several; the pipeline's text is the reference."""
    model, rows = built("text-generation")
    asked = {"prompt": rows[0]["prompt"]}
    ids = torch.tensor([model.task.tokenizer(asked["prompt"])["input_ids"]])
    with torch.no_grad():
        found = model.model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    before = model.model.generation_config.eos_token_id
    try:
        model.model.generation_config.eos_token_id = [model.task.tokenizer.eos_token_id, found[2]]
        (ended,) = model.predict([asked])
        assert "".join(model.task.stream(model.model, asked)) == ended.completion
    finally:
        model.model.generation_config.eos_token_id = before
    kept = found[: found.index(found[2]) + 1]
    whole = model.task.tokenizer.decode([*ids[0].tolist(), *kept], skip_special_tokens=True)
    assert asked["prompt"] + ended.completion == whole
