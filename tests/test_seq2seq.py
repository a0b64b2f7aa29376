"""The sequence-to-sequence seam: forms, warm-started pairs, shared weights (checks R1 to R4), a new source encoder,
losses equal to transformers', and a task in twelve lines."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.trainer_pt_utils import LabelSmoother

import topwork
from topwork import Column, UsageError
from topwork.testing import check_task
from topwork_tasks._seq2seq import SequenceToSequence
from topwork_tasks._text import TokenizerOptions, learn_tokenizer
from topwork_tasks.summarization import Summarization
from topwork_tasks.translation import Translation

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
DISTILBERT = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
T5 = {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 64, "d_kv": 8}
ROWS = Translation.example_rows()
TEXTS = [row[side] for row in ROWS for side in ("source", "target")]


def config(kind, **entries):
    return {"config": {"model_type": kind, **entries}}


BERT2BERT = {"encoder": config("bert", **SMALL), "decoder": config("bert", **SMALL)}
# name: (bases, options, class, form)
FORMS = {
    "bart": (config("bart", **SEQ2SEQ), {}, "BartForConditionalGeneration", "native"),
    "t5": (config("t5", **T5), {"prefix": "translate: "}, "T5ForConditionalGeneration", "native"),
    "mbart": (config("mbart", **SEQ2SEQ), {}, "MBartForConditionalGeneration", "native"),
    "marian": (config("marian", **SEQ2SEQ), {"generation": {"num_beams": 2}}, "MarianMTModel", "native"),
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
        {"source": config("modernbert", **SMALL), "base": config("bart", **SEQ2SEQ)},
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
        entries = SEQ2SEQ if request.param == "bart" else T5
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
        assert work.task.row_losses(work.model, batch).tolist() == pytest.approx(losses, abs=1e-4)


def test_the_loss_of_a_batch_is_that_of_transformers(written):
    folder, kind = written
    work = topwork.build("translation", str(folder))
    smooth = topwork.build("translation", str(folder), label_smoothing=0.1)
    batch = work.task.collate(work.task.encode(ROWS, "loss", 0), "loss")
    inputs = {name: value for name, value in batch.inputs.items() if name != "decoder_attention_mask"}
    out = work.model(**inputs)
    torch.testing.assert_close(work.task.loss(work.model, batch), out.loss)
    expected = LabelSmoother(0.1)({"logits": out.logits}, inputs["labels"], shift_labels=kind == "gpt2")
    torch.testing.assert_close(smooth.task.loss(smooth.model, batch), expected)


# ---------------------------------------------------------------- two checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two BERT checkpoints with a language-model head and a GPT-2, as plain transformers writes them."""
    folders = SimpleNamespace()
    for name, kind in (("first", "bert"), ("second", "bert"), ("third", "gpt2")):
        torch.manual_seed(len(name))
        folder = tmp_path_factory.mktemp(name)
        tokenizer = learn_tokenizer(TEXTS * 2, TokenizerOptions(kind="bpe", lowercase=False, vocab_size=320))
        entries = SMALL if kind == "bert" else {"n_embd": 32, "n_layer": 2, "n_head": 4}
        made = transformers.AutoConfig.for_model(kind, **entries, vocab_size=len(tokenizer), eos_token_id=3)
        auto = transformers.AutoModelForMaskedLM if kind == "bert" else transformers.AutoModelForCausalLM
        auto.from_config(made).save_pretrained(folder)
        if kind == "gpt2":
            tokenizer.pad_token = None
            tokenizer.bos_token = tokenizer.eos_token
            tokenizer._tokenizer.post_processor = None
        tokenizer.save_pretrained(folder)
        setattr(folders, name, str(folder))
    return folders


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(f"{folder}/model.safetensors")


def pair(checkpoints, decoder="first", **options):
    bases = {"encoder": checkpoints.first, "decoder": getattr(checkpoints, decoder)}
    return topwork.build("translation", bases=bases, rows=ROWS, **options)


def test_r1_sharing_saves_the_encoder(checkpoints):
    apart, shared = pair(checkpoints), pair(checkpoints, share=True)
    count = lambda module: sum(value.numel() for value in module.parameters())  # noqa: E731
    assert count(shared.model) == count(apart.model) - count(apart.model.encoder)


def same_tensors(model):
    """Names of the encoder's tensors that the decoder has too, and whether they are one."""
    theirs = dict(model.decoder.bert.named_parameters(remove_duplicate=False))
    return {name: theirs[name] is value for name, value in model.encoder.named_parameters()}


@pytest.mark.parametrize("generation", [False, True])
def test_r2_shared_tensors_are_one_after_loading_too(checkpoints, tmp_path, generation):
    work = pair(checkpoints, share=True, bert_generation=generation)
    before = work.predict(ROWS)
    assert len(same_tensors(work.model)) > 20 and all(same_tensors(work.model).values())
    work.save(tmp_path / "model")
    assert not (tmp_path / "model" / "model.safetensors").exists()
    again = topwork.load(tmp_path / "model")
    assert all(same_tensors(again.model).values())
    assert again.model.decoder.get_output_embeddings().weight is again.model.encoder.get_input_embeddings().weight
    assert again.predict(ROWS) == before


def test_r3_a_step_keeps_encoder_and_decoder_equal(checkpoints):
    work = pair(checkpoints, share=True)
    start = {name: value.detach().clone() for name, value in work.model.named_parameters()}
    work.train(ROWS, steps=1, batch_size=8, learning_rate=1e-2)
    assert all(same_tensors(work.model).values())
    moved = [name for name, value in work.model.named_parameters() if not torch.equal(value, start[name])]
    assert any("encoder.encoder" in name for name in moved) and any("crossattention" in name for name in moved)


@pytest.mark.parametrize("decoder", ["second", "third"])
def test_r4_every_leveraged_tensor_is_the_checkpoint_s(checkpoints, decoder):
    model = pair(checkpoints, decoder).model
    first, other = weights_of(checkpoints.first), weights_of(getattr(checkpoints, decoder))
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, first[f"bert.{name}"]), name
    fresh, leveraged = [], 0
    for name, value in model.decoder.named_parameters():
        if name in other:
            assert torch.equal(value, other[name]), name
            leveraged += 1
        else:
            fresh.append(name)
    assert leveraged > 20
    assert fresh and all("cross" in name for name in fresh)


def test_bert_generation_takes_over_everything_but_token_types(checkpoints):
    model = pair(checkpoints, bert_generation=True).model
    first = weights_of(checkpoints.first)
    assert type(model.encoder).__name__ == "BertGenerationEncoder"
    for part in (model.encoder, model.decoder.bert):
        for name, value in part.state_dict().items():
            if "crossattention" not in name:
                assert torch.equal(value, first[f"bert.{name}"]), name


def test_a_pair_loads_in_plain_transformers(checkpoints, tmp_path):
    """Encoder and decoder are bases with tokenizers of their own; the folder is a plain EncoderDecoderModel."""
    work = pair(checkpoints, "third", max_target_length=10)
    folder = work.save(tmp_path / "model")
    plain = transformers.EncoderDecoderModel.from_pretrained(folder).eval()
    source = transformers.AutoTokenizer.from_pretrained(folder / "encoder")
    target = transformers.AutoTokenizer.from_pretrained(folder / "decoder")
    for row, prediction in zip(ROWS, work.predict(ROWS)):
        inputs = source(row["source"], return_tensors="pt")
        said = plain.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        assert target.decode(said[0], skip_special_tokens=True).strip() == prediction[0]["translation_text"]
    assert topwork.load(folder).predict(ROWS) == work.predict(ROWS)


@pytest.mark.parametrize("decoder", ["second", "third"])
def test_a_saved_pair_is_a_base_again(checkpoints, decoder, tmp_path):
    """With both of its tokenizers; from a recipe too, and trained on it comes back once more."""
    work = pair(checkpoints, decoder, max_target_length=10)
    work.train(ROWS, steps=2, learning_rate=1e-2)
    folder = work.save(tmp_path / "model")
    again = topwork.build("translation", str(folder), rows=ROWS, max_target_length=10)
    assert (again.form, again.task.form) == ("native", "seq2seq")
    assert again.task.tokenizer.get_vocab() == work.task.tokenizer.get_vocab()
    assert again.task.target_tokenizer.bos_token == work.task.target_tokenizer.bos_token
    assert again.predict(ROWS) == work.predict(ROWS)
    batches = [model.task.collate(model.task.encode(ROWS, "loss", 0), "loss") for model in (work, again)]
    losses = [model.task.row_losses(model.model, batch) for model, batch in zip((work, again), batches)]
    torch.testing.assert_close(losses[0], losses[1])
    long = [{**ROWS[0], "source": "one house " * 200}]
    assert again.predict(long) == work.predict(long)
    recipe = {"task": "translation", "base": {"model": str(folder)}, "stages": ["save"]}
    assert set(topwork.load_recipe(recipe).bases) == {"base"}
    again.train(ROWS, steps=1, learning_rate=1e-2)
    assert topwork.load(again.save(tmp_path / "again")).predict(ROWS) == again.predict(ROWS)


def test_generation_options_are_saved_and_not_on_the_config(checkpoints, tmp_path):
    options = {"num_beams": 3, "max_new_tokens": 7, "length_penalty": 0.5, "no_repeat_ngram_size": 3}
    folder = pair(checkpoints, "second", generation=options).save(tmp_path / "model")
    saved = json.loads((folder / "generation_config.json").read_text())
    assert {key: saved[key] for key in options} == options
    assert not set(options) & set(json.loads((folder / "config.json").read_text()))
    shared = pair(checkpoints, share=True, generation=options).save(tmp_path / "shared")
    again = topwork.load(shared).model.generation_config
    assert {key: getattr(again, key) for key in options} == options


def test_pairs_in_recipes(checkpoints):
    recipe = {
        "task": "summarization",
        "base": {"encoder": {"model": checkpoints.first}, "decoder": {"model": checkpoints.third}},
        "stages": ["save"],
    }
    loaded = topwork.load_recipe(recipe)
    assert set(loaded.bases) == {"encoder", "decoder"}
    assert set(topwork.load_recipe(loaded.to_dict()).bases) == {"encoder", "decoder"}
    with pytest.raises(UsageError, match="did you mean `encoder`"):
        topwork.load_recipe({**recipe, "base": {"encodr": checkpoints.first, "decoder": checkpoints.third}})


REFUSED = {
    "an encoder alone": ({"base": config("bert", **SMALL)}, {}, "is an encoder"),
    "a decoder without cross-attention": (
        {"encoder": config("bert", **SMALL), "decoder": config("llama", **SMALL)},
        {},
        "no decoder with cross-attention",
    ),
    "an encoder-decoder as encoder": (
        {"encoder": config("bart", **SEQ2SEQ), "decoder": config("bert", **SMALL)},
        {},
        "is an encoder-decoder itself",
    ),
    "sharing of different widths": (
        {"encoder": config("bert", **SMALL), "decoder": config("bert", **{**SMALL, "intermediate_size": 48})},
        {"share": True},
        "cannot share",
    ),
    "sharing with one base": ({"base": config("bart", **SEQ2SEQ)}, {"share": True}, "`share` is for"),
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
    bases = {"source": config("bert", **SMALL), "base": config("bart", **SEQ2SEQ)}
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
    work = topwork.build("translation", config("bart", **SEQ2SEQ), rows=ROWS, max_target_length=5)
    rows = [{"source": "one house", "target": "ein Haus " * 20}, {"source": "", "target": ""}]
    first, second = (item.inputs["labels"] for item in work.task.encode(rows, "loss", 0))
    assert len(first) == 5 and first[-1] == work.task.tokenizer.eos_token_id
    assert second == [work.task.tokenizer.eos_token_id]
    batch = work.task.collate(work.task.encode(rows, "loss", 0), "loss")
    assert torch.isfinite(work.task.row_losses(work.model, batch)).all()


class Fusion(SequenceToSequence):
    """Sentences are joined into one."""

    name, answer = "sentence-fusion", "fused_text"
    columns = {"sentences": Column("short sentences"), "fused": Column("one sentence", target=True)}

    @classmethod
    def example_rows(cls):
        return [{"sentences": f"{a} ran. {a} fell.", "fused": f"{a} ran and fell."} for a in "ABCDEFGH"]


def test_a_task_of_twelve_lines(tmp_path):
    work = check_task(Fusion, config("t5", **T5), tmp_path)
    (prediction,) = work.predict([{"sentences": "A ran. A fell."}])
    assert set(prediction[0]) == {"fused_text"}
    found = work.evaluate(Fusion.example_rows())
    assert {"exact_match", "bleu", "chrf", "rougeL", "length_ratio"} <= set(found)
