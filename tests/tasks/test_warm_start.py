"""Pairs of an encoder and a decoder: warm-started from two checkpoints, their weights shared or not (checks R1 to R4),
saved, and bases again; pairs that transformers wrote, with one tokenizer or two."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import transformers
from tiny_bases import TEXT as SMALL
from tolerance import about, close

import topwork
from topwork import UsageError
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer
from topwork_tasks.translation import Translation

ROWS = Translation.example_rows()
TEXTS = [row[side] for row in ROWS for side in ("source", "target")]

LABELLED = [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]


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
    return safetensors.torch.load_file(f"{folder}/model.safetensors")


def pair(checkpoints, decoder="first", **options):
    bases = {"encoder": checkpoints.first, "decoder": getattr(checkpoints, decoder)}
    return topwork.build("translation", bases=bases, rows=ROWS, **options)


def test_r1_sharing_saves_the_encoder(checkpoints):
    apart, shared = pair(checkpoints), pair(checkpoints, share=True)

    def count(module):
        return sum(value.numel() for value in module.parameters())

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
    close(losses[0], losses[1])
    long = [{**ROWS[0], "source": "one house " * 200}]
    assert again.predict(long) == work.predict(long)
    recipe = {"task": "translation", "base": {"model": str(folder)}, "stages": ["save"]}
    assert set(topwork.load_recipe(recipe).bases) == {"base"}
    again.train(ROWS, steps=1, learning_rate=1e-2)
    assert topwork.load(again.save(tmp_path / "again")).predict(ROWS) == again.predict(ROWS)


@pytest.mark.parametrize("generation", [False, True])
def test_a_shared_pair_is_a_base_again(checkpoints, generation, tmp_path):
    """Its weights are one after that too: trained on, they move both sides, and are saved once."""
    work = pair(checkpoints, share=True, bert_generation=generation, max_target_length=10)
    work.train(ROWS, steps=2, learning_rate=1e-2)
    folder = work.save(tmp_path / "model")
    again = topwork.build("translation", str(folder), rows=ROWS, max_target_length=10, share=True)
    assert (type(again.model).__name__, again.form) == ("SharedEncoderDecoder", "generic")
    assert all(same_tensors(again.model).values())
    assert again.predict(ROWS) == work.predict(ROWS)
    again.train(ROWS, steps=1, learning_rate=1e-2)
    assert all(same_tensors(again.model).values())
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(again.model.decoder.bert.get_parameter(name), work.model.encoder.get_parameter(name))
    twice = again.save(tmp_path / "again")
    assert set(safetensors.torch.load_file(twice / "topwork.safetensors")) == set(stored_names(work.model))
    loaded = topwork.load(twice)
    assert all(same_tensors(loaded.model).values())
    assert loaded.predict(ROWS) == again.predict(ROWS)
    with pytest.raises(OSError):  # which would fill the decoder with random weights
        transformers.EncoderDecoderModel.from_pretrained(twice)
    with pytest.raises(topwork.CheckpointError, match="no bare model"):
        topwork.build("text-classification", {"model": str(twice), "processor": checkpoints.first}, rows=LABELLED)
    manifest = json.loads((twice / "topwork.json").read_text())
    (twice / "topwork.json").write_text(json.dumps(topwork.with_checksum({**manifest, "alterations": {"lens": {}}})))
    with pytest.raises(topwork.CheckpointError, match="no plain base"):
        topwork.build("translation", str(twice), rows=ROWS)


def stored_names(model):
    """One name of every tensor: the first."""
    seen = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        seen.setdefault(id(tensor), name)
    return seen.values()


def test_a_shared_pair_of_transformers_4_is_a_base(checkpoints, tmp_path):
    """It wrote one copy, with the pooler, and noted the sharing in the config; transformers 5 does not look there."""
    work = pair(checkpoints, share=True, max_target_length=10)
    tensors = {name: work.model.state_dict()[name].clone() for name in stored_names(work.model)}
    tensors |= {"encoder.pooler.dense.weight": torch.ones(32, 32), "encoder.pooler.dense.bias": torch.ones(32)}
    work.model.config.save_pretrained(tmp_path)
    work.model.generation_config.save_pretrained(tmp_path)
    work.task.tokenizer.save_pretrained(tmp_path)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = topwork.build("translation", str(tmp_path), rows=ROWS, max_target_length=10)
    assert all(same_tensors(again.model).values())
    assert again.predict(ROWS) == work.predict(ROWS)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_encoder_decoder": False}))
    with pytest.raises(topwork.CheckpointError, match="are not in the checkpoint"):
        topwork.build("translation", str(tmp_path), rows=ROWS)


@pytest.mark.learn
def test_a_recipe_trains_a_shared_pair_on_in_a_new_process(checkpoints, tmp_path):
    base = pair(checkpoints, share=True, max_target_length=10).save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    recipe = {
        "task": {"name": "translation", "max_target_length": 10},
        "base": {"model": str(base)},
        "data": {"train": {"path": str(tmp_path / "rows.jsonl")}, "evaluate": {"path": str(tmp_path / "rows.jsonl")}},
        "stages": [{"train": {"steps": 2, "learning_rate": 0.01}}, "evaluate", "save"],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "topwork", "run", str(tmp_path / "recipe.yaml"), "--folder", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = topwork.load(tmp_path / "run" / "model")
    assert all(same_tensors(found.model).values())


@pytest.mark.parametrize("places", ["folders", "beside", "elsewhere", "one", "none"])
def test_a_plain_pair_with_two_tokenizers(checkpoints, places, tmp_path):
    """BERT and GPT-2 in one folder that transformers wrote; GPT-2's tokenizer has no padding token."""
    torch.manual_seed(3)
    parts = [transformers.AutoConfig.from_pretrained(folder) for folder in (checkpoints.first, checkpoints.third)]
    source, target = (
        transformers.AutoTokenizer.from_pretrained(folder)
        for folder in vars(checkpoints).values()
        if folder != checkpoints.second
    )
    assert target.pad_token is None
    parts[1].vocab_size = parts[0].vocab_size + 1
    made = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    plain = transformers.EncoderDecoderModel(made).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(3)
    special = dict.fromkeys(("decoder_start_token_id", "pad_token_id", "eos_token_id"), target.eos_token_id)
    plain.generation_config.update(**special, num_beams=2, max_new_tokens=9)
    plain.save_pretrained(tmp_path / "model")
    home = tmp_path / ("tokenizers" if places == "elsewhere" else "model")
    if places != "none":
        source.save_pretrained(home / ("encoder" if places in ("folders", "elsewhere") else "."))
    if places not in ("one", "none"):
        target.save_pretrained(home / "decoder")
    base = {"model": str(tmp_path / "model"), **({"processor": str(home)} if places == "elsewhere" else {})}
    if places in ("one", "none"):
        with pytest.raises(topwork.TopworkError, match="one tokenizer, but" if places == "one" else "no tokenizer"):
            topwork.build("translation", base, rows=ROWS)
        return
    work = topwork.build("translation", base, rows=ROWS)
    losses = []
    for row, prediction in zip(ROWS, work.predict(ROWS)):
        inputs = source(row["source"], return_tensors="pt")
        inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        said = plain.generate(**inputs)
        assert prediction == [{"translation_text": target.decode(said[0], skip_special_tokens=True).strip()}]
        labels = torch.tensor([[*target(row["target"])["input_ids"], target.eos_token_id]])
        shifted = torch.cat([torch.tensor([[target.eos_token_id]]), labels[:, :-1]], 1)
        logits = plain(**inputs, decoder_input_ids=shifted).logits[0]
        losses.append(float(torch.nn.functional.cross_entropy(logits, labels[0]).detach()))
    batch = work.task.collate(work.task.encode(ROWS, "loss", 0), "loss")
    with torch.no_grad():
        assert work.task.row_losses(work.model, batch).tolist() == about(losses)
    assert topwork.load(work.save(tmp_path / "saved")).predict(ROWS) == work.predict(ROWS)


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
