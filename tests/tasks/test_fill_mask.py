"""fill-mask: predictions equal to the pipeline's, masks by row and by epoch, loss and perplexity, bad input."""

from __future__ import annotations

import json
import math

import numpy
import pytest
import torch
import transformers
from tiny_bases import TEXT as SMALL
from tolerance import about, close

import topwork
from topwork import DataError, UsageError
from topwork.testing import check_task
from topwork_tasks._text.tokenizers import TokenizerOptions, learn_tokenizer
from topwork_tasks.fill_mask.masking import choose, corrupt, logits_at
from topwork_tasks.fill_mask.task import FillMask

BASES = {
    "bert": SMALL,
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64},
    "roberta": SMALL,
    "deberta-v2": SMALL,
    "modernbert": SMALL,
}
ROWS = FillMask.example_rows()
TEXTS = [row["text"] for row in ROWS if row["answer"] is None]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def written(request, tmp_path_factory):
    """A folder that plain transformers wrote."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp(request.param)
    kind = "wordpiece" if request.param == "bert" else "bpe"
    tokenizer = learn_tokenizer(TEXTS * 3, TokenizerOptions(kind=kind, vocab_size=400, min_frequency=1))
    tokenizer.model_max_length = 32
    if request.param == "roberta":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = transformers.AutoConfig.for_model(
        request.param, **SMALL, vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=0
    )
    model = transformers.AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"targets": ["red", "blue", "hill"]}])
def test_predictions_equal_the_pipeline(written, options):
    work = topwork.build("fill-mask", str(written), **options)
    texts = ["the red [MASK] ran over the hill", "a [MASK] bird sat on the red [MASK]"]
    pipe = transformers.pipeline("fill-mask", model=str(written))
    targets = None
    if "targets" in options:
        known = pipe.tokenizer.get_vocab()
        targets = [word if word in known else f"Ġ{word}" for word in options["targets"]]
    expected = [pipe(text, top_k=options.get("top_k", 5), targets=targets) for text in texts]
    found = work.predict([{"text": text} for text in texts])
    flat = [(found[0], expected[0]), *zip(found[1], expected[1], strict=True)]
    for mine, theirs in flat:
        assert [entry.pop("score") for entry in mine] == about([entry.pop("score") for entry in theirs])
        assert mine == theirs
    json.dumps(found)


def test_loss_equals_the_native_class(written):
    work = topwork.build("fill-mask", str(written), rows=ROWS)
    batch = work.task.collate(work.task.encode(ROWS, "loss", 0), "loss")
    plain = transformers.AutoModelForMaskedLM.from_pretrained(written)
    close(work.task.loss(work.model, batch), plain(**batch.inputs).loss)
    assert int((batch.inputs["labels"] != -100).sum(1).min()) >= 1


@pytest.mark.parametrize("kind", [*BASES, "electra", "mobilebert"])
def test_logits_at_masks_equal_the_full_ones(kind):
    """MobileBERT multiplies by its embeddings without calling a layer."""
    torch.manual_seed(0)
    changes = {"embedding_size": 16, "num_feedforward_networks": 1, "intra_bottleneck_size": 16}
    changes = changes if kind == "mobilebert" else {}
    config = transformers.AutoConfig.for_model(
        kind, **{**BASES.get(kind, SMALL), **changes}, vocab_size=90, pad_token_id=0
    )
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    inputs = {"input_ids": torch.randint(5, 90, (3, 7))}
    rows, places = torch.tensor([0, 0, 2]), torch.tensor([1, 6, 3])
    widths = []
    model.get_output_embeddings().register_forward_hook(lambda _, given, __: widths.append(given[0].shape[1]))
    with torch.no_grad():
        found = logits_at(model, inputs, rows, places)
        assert widths == ([] if kind == "mobilebert" else [3])
        close(found, model(**inputs).logits[rows, places])
        assert logits_at(model, inputs, rows[:0], places[:0]).shape == (0, 90)


def test_masks_are_fixed_by_row_and_drawn_anew_by_seed(written):
    task = topwork.build("fill-mask", str(written)).task
    rows = [{"text": text} for text in TEXTS]

    def labels(mode, seed, chosen):
        return [item.inputs["labels"] for item in task.encode(chosen, mode, seed)]

    assert labels("loss", 0, rows) == labels("loss", 7, rows) == labels("loss", 0, rows[::-1])[::-1]
    assert labels("loss", 0, rows) == labels("predict", 0, rows)
    assert labels("train", 1, rows) != labels("train", 2, rows)
    assert not task.repeatable


def test_shares_of_what_is_masked():
    draw = numpy.random.default_rng(0)
    places = choose([[place] for place in range(2000)], 0.15, draw)
    assert len(places) == 300 and places == sorted(set(places))
    changed = corrupt([7] * 2000, list(range(2000)), 4, range(100, 200), 0.1, 0.1, draw)
    assert changed.count(4) / 2000 == pytest.approx(0.8, abs=0.03)
    assert changed.count(7) / 2000 == pytest.approx(0.1, abs=0.03)
    assert choose([[3]], 0.15, draw) == [3]


def test_whole_words_are_masked_together():
    texts = ["unbelievable houses", "believable unhoused"] * 2
    work = topwork.build(
        "fill-mask",
        {"config": {"model_type": "bert", **SMALL}},
        rows=[{"text": text} for text in texts],
        whole_words=True,
        share=0.5,
        tokenizer={"vocab_size": 24},
    )
    (item,) = work.task.encode([{"text": texts[0]}], "train", 3)
    names = work.task.tokenizer.convert_ids_to_tokens(
        [own if own != -100 else said for own, said in zip(item.inputs["labels"], item.inputs["input_ids"])]
    )
    chosen = [label != -100 for label in item.inputs["labels"]]
    assert len(names) > 6
    for before, name, one, other in zip(names[1:], names[2:-1], chosen[1:], chosen[2:-1]):
        assert not name.startswith("##") or one == other, (before, name)


def test_perplexity_and_accuracy(written):
    work = topwork.build("fill-mask", str(written))
    found = work.evaluate(ROWS)
    items = work.task.encode(ROWS, "loss", 0)
    batch = work.task.collate(items, "loss")
    with torch.no_grad():
        loss = float(work.task.loss(work.model, batch))
        inputs = {name: value for name, value in batch.inputs.items() if name != "labels"}
        best = work.model(**inputs).logits.argmax(-1)
    chosen = batch.inputs["labels"] != -100
    assert found["loss"] == about(loss)
    assert found["perplexity"] == about(math.exp(loss))
    assert found["accuracy"] == pytest.approx(float((best == batch.inputs["labels"])[chosen].float().mean()))
    assert found["masked"] == int(chosen.sum())


def test_long_texts_are_read_in_windows(written):
    work = topwork.build("fill-mask", str(written))
    text = "the red fox ran over the green hill " * 12 + "[MASK]"
    assert len(work.task.encode([{"text": text}], "predict", 0)) > 2
    (prediction,) = work.predict([{"text": text}])
    assert len(prediction) == 5 and work.predict([{"text": ""}]) == [[]]


@pytest.mark.parametrize("kind", BASES)
def test_contract(kind, tmp_path, plugins):
    work = check_task(FillMask, {"config": {"model_type": kind, **BASES[kind]}}, tmp_path, plugins=plugins)
    assert work.form == "native"


BAD = {
    "no text": ({"answer": None}, "text", "missing"),
    "text is a number": ({"text": 3}, "text", "not text"),
    "masks without answer": ({"text": "the [MASK] fox"}, "answer", "has masks"),
    "too many answers": ({"text": "the [MASK] fox", "answer": ["red", "blue"]}, "answer", "2 answers to 1 masks"),
    "answers without masks": ({"text": "the fox", "answer": "red"}, "answer", "1 answers to 0 masks"),
    "answer of two tokens": ({"text": "the [MASK] fox", "answer": "red hill"}, "answer", "no single token"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_with_row_and_column(written, case):
    row, column, message = BAD[case]
    task = topwork.build("fill-mask", str(written)).task
    with pytest.raises(DataError, match=message) as caught:
        task.encode([ROWS[0], row], "loss", 0)
    assert (caught.value.row, caught.value.column) == (1, column)
    assert caught.value.hint


@pytest.mark.parametrize("foreign", ["<mask>", "<MASK>", "[mask]"])
def test_the_mask_of_another_tokenizer_is_refused(written, foreign):
    work = topwork.build("fill-mask", str(written))
    with pytest.raises(DataError, match=r"is no mask here: the masks are '\[MASK\]'"):
        work.predict(f"the {foreign} fox")
    stated = topwork.build("fill-mask", str(written), mask=foreign)
    assert list(stated.predict(f"the {foreign} fox")) == list(work.predict("the [MASK] fox"))


def test_bases_and_targets_that_do_not_fit(written):
    with pytest.raises(UsageError, match="no task head for masked"):
        topwork.build(
            "fill-mask", {"config": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}}, rows=ROWS
        )
    with pytest.raises(UsageError, match="no single token"):
        topwork.build("fill-mask", str(written), targets=["unheard-of word"])
