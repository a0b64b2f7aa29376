"""Lengths of generated texts are bounded by the positions of the model that writes; options of generation; folders of
pairs open in plain transformers."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import transformers
from pydantic import ValidationError
from scripts import BERT

import topwork
from topwork import UsageError

SEQ2SEQ: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
POSITIONS = 24
BOUND = {"max_position_embeddings": POSITIONS}
SMALL = {**BERT, **BOUND}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": POSITIONS}


def config(kind: str, **entries: Any) -> dict[str, Any]:
    return {"config": {"model_type": kind, **entries}}


PAIR = {"encoder": config("bert", **SMALL), "decoder": config("bert", **SMALL)}
BASES: dict[str, Any] = {
    "bart": config("bart", **SEQ2SEQ, **BOUND),
    "marian": config("marian", **SEQ2SEQ, **BOUND, pad_token_id=0, decoder_start_token_id=0),
    "mbart": config("mbart", **SEQ2SEQ, **BOUND),
    "pegasus": config("pegasus", **SEQ2SEQ, **BOUND),
    "led": config(
        "led",
        **SEQ2SEQ,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=POSITIONS,
        attention_window=8,
    ),
    "bert to bert": PAIR,
    "bert to roberta": {"encoder": config("bert", **SMALL), "decoder": config("roberta", **SMALL)},
    "bert to gpt2": {"encoder": config("bert", **SMALL), "decoder": {"config": GPT2}},
    "longer encoder": {
        "encoder": config("bert", **{**SMALL, "max_position_embeddings": 64}),
        "decoder": PAIR["decoder"],
    },
    "a decoder": {"config": GPT2},
    "a decoder with rotary positions": config(
        "llama", hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, **BOUND
    ),
}


def build(task: str, base: Any, **options: Any) -> topwork.TaskModel:
    how = {"bases": base} if "encoder" in base else {"base": base}
    return topwork.build(task, **how, **options)


TASKS = ("translation", "summarization")
ROWS = {
    "translation": [{"source": "one house " * n, "target": "ein Haus"} for n in (1, 2, 30)],
    "summarization": [{"document": "one house " * n, "summary": "ein Haus"} for n in (1, 2, 30)],
    "text-generation": [{"prompt": "one house " * n, "completion": "ein Haus"} for n in (1, 2, 30)],
}
CASES = [(task, base) for task in TASKS for base in BASES] + [
    ("text-generation", base) for base in BASES if base.startswith("a decoder")
]


@cache
def built(task: str, base: str) -> topwork.TaskModel:
    return build(task, BASES[base], rows=ROWS[task], tokenizer={"min_frequency": 1})


@pytest.mark.parametrize(("task", "base"), CASES)
def test_defaults_stay_within_the_positions_of_the_model_that_writes(task, base):
    """A model from random weights hardly ends a text: it writes to the limit."""
    work = built(task, base)
    result = work.evaluate(ROWS[task])
    assert result
    work.train(ROWS[task], steps=1)


@pytest.mark.parametrize(("task", "base"), CASES)
def test_more_than_the_positions_is_refused_before_training(task, base):
    for name, options in {
        "max_target_length": {"max_target_length": 200},
        "max_new_tokens": {"generation": {"max_new_tokens": 200}},
    }.items():
        if task == "text-generation" and name == "max_target_length":
            continue
        with pytest.raises(UsageError, match=f"{name}.* is 200.*positions") as caught:
            build(task, BASES[base], rows=ROWS[task], tokenizer={"min_frequency": 1}, **options)
        assert "or less" in caught.value.hint


@pytest.mark.parametrize(("task", "base"), [case for case in CASES if not case[1].startswith("a decoder")])
def test_all_positions_of_a_decoder_may_be_asked_for(task, base):
    limit = POSITIONS - 1 if "roberta" in base else POSITIONS
    work = build(
        task,
        BASES[base],
        rows=ROWS[task],
        tokenizer={"min_frequency": 1},
        max_target_length=limit,
        generation={"max_new_tokens": limit},
    )
    work.train(ROWS[task], steps=1)
    assert len(work.predict(ROWS[task])) == 3


@pytest.mark.parametrize("task", [*TASKS, "text-generation"])
def test_a_prompt_gives_way_to_the_new_tokens_that_are_asked_for(task):
    base = BASES["a decoder"]
    options = {"generation": {"max_new_tokens": POSITIONS - 2}}
    work = build(task, base, rows=ROWS[task], tokenizer={"min_frequency": 1}, **options)
    assert len(work.predict(ROWS[task])) == 3


def test_a_checkpoint_whose_generation_config_is_longer_than_its_positions(tmp_path):
    folder = built("translation", "bart").save(tmp_path / "model")
    generation = transformers.GenerationConfig.from_pretrained(folder)
    generation.max_new_tokens, generation.max_length = None, 500
    generation.save_pretrained(folder)
    (folder / "topwork.json").unlink()
    work = topwork.build("translation", str(folder), rows=ROWS["translation"])
    assert len(work.predict(ROWS["translation"])) == 3


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("task", [*TASKS, "text-generation"])
@pytest.mark.parametrize(("name", "value"), [("temperature", 0.7), ("top_k", 5), ("top_p", 0.9)])
def test_options_of_sampling_without_sampling_are_refused(task, name, value):
    base = "a decoder" if task == "text-generation" else "bart"
    with pytest.raises((UsageError, ValidationError), match="do_sample"):
        build(task, BASES[base], rows=ROWS[task], generation={name: value})
    options = {"do_sample": True, name: value}
    work = build(task, BASES[base], rows=ROWS[task], generation=options, tokenizer={"min_frequency": 1})
    assert len(work.predict(ROWS[task])) == 3


# ---------------------------------------------------------------- folders of pairs


@pytest.mark.parametrize(
    "options", [{}, {"share": True}, {"bert_generation": True}, {"share": True, "bert_generation": True}]
)
def test_the_tokenizer_of_both_sides_lies_where_plain_transformers_look(options, tmp_path):
    rows = [{"source": text, "target": text} for text in ("one house", "two trees", "three old trees")]
    work = build("translation", PAIR, rows=rows, tokenizer={"min_frequency": 1}, **options)
    folder = work.save(tmp_path / "model")
    again = topwork.load(folder)
    if not work.task.state.processors.get("tokenizer"):  # the two sides learned different ones
        pytest.fail("the sides read the same texts, and their tokenizers differ")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for row in rows:
        assert tokenizer(row["source"])["input_ids"] == work.task.tokenizer(row["source"])["input_ids"]
    assert again.predict(rows) == work.predict(rows)


def test_two_different_tokenizers_stay_with_their_sides(tmp_path):
    rows = [{"source": "one house", "target": "zwei Bäume"}, {"source": "two trees", "target": "ein Haus"}]
    work = build("translation", PAIR, rows=rows, tokenizer={"min_frequency": 1})
    folder = work.save(tmp_path / "model")
    again = topwork.load(folder)
    assert set(again.task.state.processors) == {"encoder/tokenizer", "decoder/tokenizer"}
    assert again.predict(rows) == work.predict(rows)
