"""The sequence-to-sequence seam: forms, a new source encoder, losses equal to transformers', a task in a short file.
Pairs of two checkpoints have tests of their own (test_warm_start.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tiny_bases import PAIR
from tiny_bases import TEXT as SMALL
from tolerance import about, close
from transformers.trainer_pt_utils import LabelSmoother

import topwork
from topwork import UsageError
from topwork.testing import check_task
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer
from topwork_tasks.summarization import Summarization
from topwork_tasks.translation import Translation

DISTILBERT = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
T5 = {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 64, "d_kv": 8}
ROWS = Translation.example_rows()
TEXTS = [row[side] for row in ROWS for side in ("source", "target")]


def config(kind, **entries):
    return {"config": {"model_type": kind, **entries}}


BERT2BERT = {"encoder": config("bert", **SMALL), "decoder": config("bert", **SMALL)}
# name: (bases, options, class, form)
FORMS = {
    "bart": (config("bart", **PAIR), {}, "BartForConditionalGeneration", "native"),
    "t5": (config("t5", **T5), {"prefix": "translate: "}, "T5ForConditionalGeneration", "native"),
    "mbart": (config("mbart", **PAIR), {}, "MBartForConditionalGeneration", "native"),
    "marian": (config("marian", **PAIR), {"generation": {"num_beams": 2}}, "MarianMTModel", "native"),
    "gpt2": (config("gpt2", n_embd=32, n_layer=2, n_head=4), {}, "GPT2LMHeadModel", "native"),
    "bert2bert": (BERT2BERT, {}, "EncoderDecoderModel", "native"),
    "bertshare": (BERT2BERT, {"share": True}, "SharedEncoderDecoder", "generic"),
    "bertgeneration": (BERT2BERT, {"share": True, "bert_generation": True}, "SharedEncoderDecoder", "generic"),
    "roberta2bertgeneration": (
        {"encoder": config("roberta", **SMALL), "decoder": config("bert-generation", **SMALL)},
        {},
        "EncoderDecoderModel",
        "native",
    ),
    "distilbert2gpt2": (  # two tokenizers, two widths
        {"encoder": config("distilbert", **DISTILBERT), "decoder": config("gpt2", n_embd=48, n_layer=1, n_head=4)},
        {"label_smoothing": 0.1},
        "EncoderDecoderModel",
        "native",
    ),
    "deberta2roberta": (
        {"encoder": config("deberta-v2", **SMALL), "decoder": config("roberta", **SMALL)},
        {},
        "EncoderDecoderModel",
        "native",
    ),
    "modernbert2bart": (
        {"source": config("modernbert", **SMALL), "base": config("bart", **PAIR)},
        {},
        "SourceEncoder",
        "generic",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_contract_and_learning(name, tmp_path, plugins):
    base, options, model_class, form = FORMS[name]
    work = check_task(Translation, base, tmp_path, options=options, plugins=plugins)
    assert (type(work.model).__name__, work.form) == (model_class, form)
    batch = work.task.collate(work.task.encode(ROWS, "train", 0), "train")
    optimizer = torch.optim.AdamW(work.model.parameters(), lr=1e-2)
    work.model.train()
    losses, touched = [], set()
    for _ in range(20):
        loss = work.task.loss(work.model, batch)
        optimizer.zero_grad()
        loss.backward()
        touched |= {name for name, value in work.model.named_parameters() if value.grad is not None}
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] * (0.75 if options.get("label_smoothing") else 0.5), losses
    assert {name for name, value in work.model.named_parameters() if value.requires_grad} == touched


# ---------------------------------------------------------------- equal to plain transformers


@pytest.fixture(scope="module", params=["bart", "t5", "encoder-decoder", "gpt2"])
def written(request, tmp_path_factory):
    """A folder that plain transformers wrote."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = learn_tokenizer(TEXTS * 2, TokenizerOptions(kind="bpe", lowercase=False, vocab_size=320))
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "vocab_size": len(tokenizer)}
    if request.param == "encoder-decoder":
        bert = transformers.BertConfig(**SMALL, vocab_size=len(tokenizer))
        found = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert)
        found.decoder_start_token_id, found.pad_token_id, found.eos_token_id = 2, 0, 3
        model = transformers.EncoderDecoderModel(found)
        model.generation_config.update(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3, num_beams=2)
    elif request.param == "gpt2":
        found = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **special)
        model = transformers.GPT2LMHeadModel(found)
    else:
        entries = PAIR if request.param == "bart" else T5
        found = transformers.AutoConfig.for_model(request.param, **entries, **special, decoder_start_token_id=2)
        model = transformers.AutoModelForSeq2SeqLM.from_config(found)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, request.param


def test_loss_and_predictions_equal_plain_transformers(written):
    folder, kind = written
    work = topwork.build("translation", str(folder), max_target_length=12, generation={"num_beams": 2})
    auto = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModelForSeq2SeqLM
    plain = auto.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = work.predict(ROWS)
    losses = []
    for row, prediction in zip(ROWS, found):
        if kind == "gpt2":
            prompt = tokenizer(f"{row['source']}\n= ", return_tensors="pt")["input_ids"][:, :-1]
            target = tokenizer(row["target"], add_special_tokens=False, return_tensors="pt")["input_ids"]
            ids = torch.cat([prompt, target, torch.tensor([[3]])], 1)
            labels = ids.clone()
            labels[:, : prompt.shape[1]] = -100
            said = plain.generate(prompt, num_beams=2, max_new_tokens=12)[:, prompt.shape[1] :]
            losses.append(float(plain(ids, labels=labels).loss.detach()))
        else:
            inputs = tokenizer(row["source"], return_tensors="pt")
            inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
            labels = tokenizer(row["target"], return_tensors="pt")["input_ids"][:, 1:]  # without the start token
            said = plain.generate(**inputs, num_beams=2, max_new_tokens=12)
            losses.append(float(plain(**inputs, labels=labels).loss.detach()))
        assert prediction == [{"translation_text": tokenizer.decode(said[0], skip_special_tokens=True).strip()}]
    batch = work.task.collate(work.task.encode(ROWS, "loss", 0), "loss")
    with torch.no_grad():
        assert work.task.row_losses(work.model, batch).tolist() == about(losses)


def test_the_loss_of_a_batch_is_that_of_transformers(written):
    folder, kind = written
    work = topwork.build("translation", str(folder))
    smooth = topwork.build("translation", str(folder), label_smoothing=0.1)
    batch = work.task.collate(work.task.encode(ROWS, "loss", 0), "loss")
    inputs = {name: value for name, value in batch.inputs.items() if name != "decoder_attention_mask"}
    out = work.model(**inputs)
    close(work.task.loss(work.model, batch), out.loss)
    expected = LabelSmoother(0.1)({"logits": out.logits}, inputs["labels"], shift_labels=kind == "gpt2")
    training = smooth.task.collate(batch.items, "train")  # smoothing is for training alone
    close(smooth.task.loss(smooth.model, training), expected)
    close(smooth.task.loss(smooth.model, batch), out.loss)


# ---------------------------------------------------------------- refused


REFUSED = {
    "an encoder alone": ({"base": config("bert", **SMALL)}, {}, "is an encoder"),
    "a decoder without cross-attention": (
        {"encoder": config("bert", **SMALL), "decoder": config("llama", **SMALL)},
        {},
        "no decoder with cross-attention",
    ),
    "an encoder-decoder as encoder": (
        {"encoder": config("bart", **PAIR), "decoder": config("bert", **SMALL)},
        {},
        "is an encoder-decoder itself",
    ),
    "sharing of different widths": (
        {"encoder": config("bert", **SMALL), "decoder": config("bert", **{**SMALL, "intermediate_size": 48})},
        {"share": True},
        "cannot share",
    ),
    "sharing with one base": ({"base": config("bart", **PAIR)}, {"share": True}, "`share` is for"),
    "bert_generation of roberta": (
        {"encoder": config("roberta", **SMALL), "decoder": config("bert", **SMALL)},
        {"bert_generation": True},
        "is for bert checkpoints",
    ),
    "other roles": ({"encoder": config("bert", **SMALL)}, {}, "has the roles"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bases_that_do_not_fit_are_refused(case):
    bases, options, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        topwork.build("translation", bases=bases, rows=ROWS, **options)


# ---------------------------------------------------------------- freezing, prompts, a task of one's own


def test_a_new_source_encoder_is_trained_first(tmp_path):
    bases = {"source": config("bert", **SMALL), "base": config("bart", **PAIR)}
    work = topwork.build("translation", bases=bases, rows=ROWS)
    start = {name: value.detach().clone() for name, value in work.model.named_parameters()}
    work.train(ROWS, steps=2, learning_rate=1e-2, freeze=["model"])
    moved = {
        name.partition(".")[0] for name, value in work.model.named_parameters() if not torch.equal(value, start[name])
    }
    assert moved == {"source", "bridge"}
    work.train(ROWS, steps=2, learning_rate=1e-2)
    moved = {
        name.partition(".")[0] for name, value in work.model.named_parameters() if not torch.equal(value, start[name])
    }
    assert moved == {"source", "bridge", "model"}
    work.save(tmp_path / "model")
    assert topwork.load(tmp_path / "model").predict(ROWS) == work.predict(ROWS)


def test_prompts_leave_room_for_targets():
    base = config("gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=48)
    work = topwork.build("summarization", base, rows=Summarization.example_rows(), max_target_length=16)
    row = {"document": "It rained all day in Oslo. " * 30, "summary": "Rain in Oslo."}
    (item,) = work.task.encode([row], "loss", 0)
    assert len(item.inputs["input_ids"]) <= 48
    labels = [label for label in item.inputs["labels"] if label != -100]
    assert work.task.tokenizer.decode(labels, skip_special_tokens=True) == "Rain in Oslo."
    assert labels[-1] == work.task.tokenizer.eos_token_id
    prompt = work.task.encode([row], "predict", 0)[0].inputs["input_ids"]
    assert len(prompt) <= 32
    assert work.task.tokenizer.decode(prompt, skip_special_tokens=True).endswith("\nTL;DR: ")
    work.predict([row, {"document": ""}])


def test_long_targets_keep_their_end():
    work = topwork.build("translation", config("bart", **PAIR), rows=ROWS, max_target_length=5)
    rows = [{"source": "one house", "target": "ein Haus " * 20}, {"source": "", "target": ""}]
    first, second = (item.inputs["labels"] for item in work.task.encode(rows, "loss", 0))
    assert len(first) == 5 and first[-1] == work.task.tokenizer.eos_token_id
    assert second == [work.task.tokenizer.eos_token_id]
    batch = work.task.collate(work.task.encode(rows, "loss", 0), "loss")
    assert torch.isfinite(work.task.row_losses(work.model, batch)).all()


GRAMMAR = Path(__file__).parents[1] / "packages" / "grammar-correction" / "grammar_correction.py"


def test_grammar_correction_is_a_short_file(tmp_path):
    """It is loaded as anybody's file, and does what the built-in tasks do, from a recipe too."""
    plugins = topwork.load_plugins(files=[GRAMMAR])
    task = plugins.tasks["grammar-correction"]
    assert len(GRAMMAR.read_text().split("class ")[1].split("register_tasks")[0].splitlines()) <= 20
    work = check_task(task, config("t5", **T5), tmp_path / "checked", plugins=plugins)
    assert set(work.predict({"text": "Ada have a cat."})[0][0]) == {"corrected_text"}
    assert {"exact_match", "bleu", "chrf", "length_ratio"} <= set(work.evaluate(task.example_rows()))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in task.example_rows()))
    recipe = {
        "task": {"name": "grammar-correction", "generation": {"num_beams": 2, "max_new_tokens": 8}},
        "base": {"encoder": config("bert", **SMALL), "decoder": config("bert", **SMALL)},
        "data": {"train": {"path": str(rows)}, "evaluate": {"path": str(rows)}},
        "stages": [{"train": {"steps": 1}}, "evaluate", "save"],
    }
    run = topwork.run(recipe, folder=tmp_path / "run", quiet=True, plugins=plugins)
    assert "exact_match" in run.results[1]["result"]["metrics"]
    found = topwork.load(tmp_path / "run" / "model", plugins=plugins)
    assert found.task.name == "grammar-correction"
    # without a file: a recipe for translation, its columns named
    named = {"source": "text", "target": "corrected"}
    plain = {**recipe, "task": "translation", "base": config("t5", **T5), "data": {**recipe["data"], "columns": named}}
    run = topwork.run(plain, folder=tmp_path / "plain", quiet=True, plugins=plugins)
    assert {"bleu", "exact_match"} <= set(run.results[1]["result"]["metrics"])
