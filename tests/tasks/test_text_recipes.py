"""Recipes of text tasks: what cannot work together is found by validation; chat templates; packed evaluation; masks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from scripts import BERT

import topwork
from topwork import RecipeError, UsageError
from topwork.cli import main

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CHATS = [
    {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": meaning}]}
    for word, meaning in (("red", "rot"), ("green", "grün"), ("blue", "blau"), ("one", "eins"))
]


def recipe(tmp_path: Any, rows: list[dict[str, Any]], task: Any, base: Any, stages: list[Any], **data: Any) -> Any:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return {"task": task, "base": base, "data": {"train": {"path": str(file)}, **data}, "stages": stages}


@pytest.fixture
def validated(capsys, tmp_path):
    """The exit code and the output of `topwork validate` for a recipe."""

    def validate(content: Any) -> tuple[int, str]:
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        code = main(["validate", str(file)])
        shown = capsys.readouterr()
        return code, " ".join((shown.out + shown.err).split())

    return validate


# ---------------------------------------------------------------- chat templates


def test_validate_says_that_messages_need_a_chat_template(tmp_path, validated):
    columns = {"columns": {"messages": "messages"}}
    content = recipe(tmp_path, CHATS, "text-generation", {"config": GPT2}, ["train"], **columns)
    code, output = validated(content)
    assert code == 2
    assert "chat_template" in output and "recipe.yaml:" in output and "data.columns.messages" in output
    content["task"] = {"name": "text-generation", "chat_template": TEMPLATE}
    assert validated(content)[0] == 0


def test_messages_without_a_chat_template_are_refused_before_the_first_stage():
    with pytest.raises(UsageError, match="no chat template") as caught:
        topwork.build("text-generation", {"config": GPT2}, rows=CHATS)
    assert "chat_template" in caught.value.hint


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ messages", "{% endif %}"])
def test_a_chat_template_that_is_no_jinja_is_refused(template):
    with pytest.raises((UsageError, ValidationError), match=r"chat_template.* is no Jinja"):
        topwork.build("text-generation", {"config": GPT2}, rows=CHATS, chat_template=template)


def test_a_chat_template_is_an_option_and_is_saved(tmp_path):
    options = {"chat_template": TEMPLATE, "generation": {"max_new_tokens": 8}, "tokenizer": {"min_frequency": 1}}
    work = topwork.build("text-generation", {"config": GPT2}, rows=CHATS, **options)
    work.train(CHATS, steps=120, learning_rate=1e-2, batch_size=4)
    assert work.evaluate(CHATS)["token_accuracy"] > 0.95
    again = topwork.load(work.save(tmp_path / "model"))
    asked = [{"messages": row["messages"][:1]} for row in CHATS]
    for found, row in zip(again.predict(asked), CHATS, strict=True):
        assert found[0]["generated_text"][-1]["content"].strip().startswith(row["messages"][1]["content"])


# ---------------------------------------------------------------- packed evaluation


TEXTS = [{"text": f"the {word} fox ran over the hill number {index}"} for index, word in enumerate("abcdefghij")]


@pytest.mark.parametrize("length", [16, 32])
def test_packed_texts_are_evaluated_as_they_are_trained(length):
    options = {"max_length": length, "tokenizer": {"min_frequency": 1}}
    packed = topwork.build("text-generation", {"config": GPT2}, rows=TEXTS, packing=True, **options)
    items = packed.task.encode(TEXTS, "train", 0)
    nll = tokens = 0.0
    for item in items:
        ids = torch.tensor([item.inputs["ids"]])
        with torch.no_grad():
            nll += float(packed.model.eval()(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    found = packed.evaluate(TEXTS)
    assert found["loss"] == pytest.approx(nll / tokens, rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-4)
    single = topwork.build("text-generation", {"config": GPT2}, rows=TEXTS, **options)
    single.model.load_state_dict(packed.model.state_dict())
    assert single.evaluate(TEXTS)["loss"] != pytest.approx(found["loss"], rel=1e-4)
    assert len(packed.predict(TEXTS)) == len(TEXTS)


def test_prompts_are_generated_for_each_row_in_packed_evaluation():
    rows = [{"prompt": f"{word} =", "completion": " x"} for word in "abc"]
    options = {
        "max_length": 32,
        "packing": True,
        "generation": {"max_new_tokens": 2},
        "tokenizer": {"min_frequency": 1},
    }
    work = topwork.build("text-generation", {"config": GPT2}, rows=rows, **options)
    assert len(work.predict(rows)) == 3 and "exact_match" in work.evaluate(rows)


# ---------------------------------------------------------------- pairs with shared weights, several bases


SIDE = {"config": {"model_type": "bert", **BERT}}
PAIRS = [{"source": text, "target": text} for text in ("one house", "two trees", "three trees")]


@pytest.mark.parametrize("task", ["translation", "summarization"])
@pytest.mark.parametrize("stage", ["prune_heads", "prune_schedule"])
def test_pruning_a_pair_that_shares_its_weights_is_refused_before_training(stage, task, tmp_path, validated):
    rows = PAIRS if task == "translation" else [{"document": row["source"], "summary": row["target"]} for row in PAIRS]
    base = {"encoder": SIDE, "decoder": SIDE}
    options = {stage: {"share": 0.25}}
    content = recipe(tmp_path, rows, {"name": task, "share": True}, base, ["train", "head_importance", options])
    code, output = validated(content)
    assert code == 2 and f"stages.{stage}" in output and "mask_heads" in output
    with pytest.raises(RecipeError, match="share"):
        topwork.run(content, folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    content["task"] = {"name": task}
    assert "share their weights" not in validated(content)[1]


def test_messages_show_how_two_bases_are_written(tmp_path, validated):
    content = recipe(tmp_path, PAIRS, "translation", SIDE, ["train"])
    with pytest.raises(UsageError) as caught:
        topwork.build("translation", SIDE, rows=PAIRS)
    assert "base: {encoder: ..., decoder: ...}" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        topwork.build("translation", {"config": GPT2}, rows=PAIRS, share=True)
    assert "base: {encoder: ..., decoder: ...}" in caught.value.hint
    content["bases"] = content.pop("base")
    assert "base: {encoder: ..., decoder: ...}" in validated(content)[1]
    assert main(["new", "translation", str(tmp_path / "new.yaml")]) == 0
    assert "encoder: {model: BASE}, decoder: {model: BASE}" in (tmp_path / "new.yaml").read_text()


# ---------------------------------------------------------------- masks that were drawn


@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize("text", ["no mask here at all", "我爱北京天安门", "मेरा घर दिल्ली में है"])
def test_predictions_of_a_text_without_masks_say_which_characters_they_are_for(text, share):
    rows = [{"text": text, "answer": None}]
    options = {"share": share, "tokenizer": {"min_frequency": 1}}
    work = topwork.build("fill-mask", {"config": {"model_type": "bert", **BERT}}, rows=rows, **options)
    (prediction,) = work.predict([{"text": text}])
    masks = [prediction] if isinstance(prediction[0], dict) else prediction
    (item,) = work.task.encode([{"text": text}], "predict", 0)
    offsets = work.task.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    hidden = [offsets[position] for position, label in enumerate(item.inputs["labels"]) if label != -100]
    assert [(choices[0]["start"], choices[0]["end"]) for choices in masks] == hidden
    (asked,) = work.predict([{"text": f"{text} [MASK]"}])
    assert set(asked[0]) == {"score", "token", "token_str", "sequence"}  # as the Hub's pipeline
