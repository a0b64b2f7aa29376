"""translation: sacreBLEU and chrF with signatures, dicts and columns, language codes of mBART and M2M100, bad input."""

from __future__ import annotations

import json
import random

import pytest
import sacrebleu
import sentencepiece
import torch
import transformers
from tiny_bases import SEQ2SEQ
from tolerance import close

import topwork
from topwork import DataError, UsageError
from topwork_bases.samples.number_words import english, german, number_lines, number_words
from topwork_tasks._text.metrics import TextMetric
from topwork_tasks.translation import Translation

ROWS = Translation.example_rows()
DICTS = [{"translation": {"en": row["source"], "de": row["target"]}} for row in ROWS]
# long enough to have 4-grams, which BLEU is made of
LONG = [{"source": german(n), "target": english(n)} for n in (12345, 23456, 34567, 45678, 56789, 67891, 78912, 89123)]


def test_scores_equal_sacrebleu():
    draw = random.Random(0)
    true = [row["translation"]["en"] for row in number_words("test")[:40]]
    said = [text if draw.random() < 0.5 else " ".join(draw.sample(text.split(), len(text.split()))) for text in true]
    halves = [TextMetric(("bleu", "chrf", "exact_match"), lambda row: row["true"], str) for _ in range(2)]
    for number, (one, other) in enumerate(zip(true, said)):
        halves[number >= 20].update({"true": one}, other)
    halves[0].merge(halves[1])
    found = halves[0].result()
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [true]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [true]).score)
    assert 0 < found["bleu"] < 100
    assert "tok:13a" in found["bleu_signature"] and f"version:{sacrebleu.__version__}" in found["chrf_signature"]


def test_number_words():
    assert english(21305) == "twenty-one thousand three hundred five"
    assert german(21305) == "einundzwanzigtausenddreihundertfünf"
    assert [german(number) for number in (0, 1, 16, 101, 1001)] == [
        "null",
        "eins",
        "sechzehn",
        "einhunderteins",
        "eintausendeins",
    ]
    train, test = ({row["translation"]["de"] for row in number_words(split)} for split in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (98000, 2000, 0)
    assert number_lines("test")[0]["text"].endswith(number_words("test")[0]["translation"]["de"])


def test_dicts_and_columns_are_read_alike():
    base = {"config": {"model_type": "bart", **SEQ2SEQ}}
    columns = topwork.build("translation", base, rows=ROWS)
    dicts = topwork.build("translation", base, rows=DICTS, source_language="en", target_language="de")
    one, other = (
        [item.inputs for item in work.task.encode(rows, "loss", 0)] for work, rows in ((columns, ROWS), (dicts, DICTS))
    )
    assert one == other
    assert columns.evaluate(ROWS)["bleu"] == dicts.evaluate(DICTS)["bleu"]


# ---------------------------------------------------------------- language codes


@pytest.fixture(scope="module")
def mbart(tmp_path_factory):
    """An mBART folder as plain transformers writes it: its tokenizer ends texts with the code of their language."""
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

    torch.manual_seed(0)
    words = sorted({word for row in ROWS for side in row.values() for word in side.split()})
    vocabulary = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")] + [(f"▁{word}", -2.0) for word in words]
    vocabulary += [(letter, -9.0) for letter in sorted(set("".join(words)) | {"▁"})]
    vocabulary += [(code, 0.0) for code in (*FAIRSEQ_LANGUAGE_CODES, "<mask>")]
    tokenizer = transformers.MBartTokenizer(vocab=vocabulary, src_lang="en_XX", tgt_lang="de_DE")
    config = transformers.MBartConfig(**SEQ2SEQ, vocab_size=len(tokenizer), max_position_embeddings=64)
    folder = tmp_path_factory.mktemp("mbart")
    transformers.MBartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_mbart_starts_with_the_code_of_the_target_language(mbart, tmp_path):
    options = {"source_language": "en_XX", "target_language": "de_DE", "max_target_length": 9}
    work = topwork.build("translation", str(mbart), **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(mbart)
    tokenizer.src_lang, tokenizer.tgt_lang = "en_XX", "de_DE"
    code = tokenizer.convert_tokens_to_ids("de_DE")
    assert work.model.generation_config.decoder_start_token_id == code
    expected = tokenizer(ROWS[1]["source"], text_target=ROWS[1]["target"])
    (item,) = work.task.encode([ROWS[1]], "loss", 0)
    assert item.inputs["input_ids"] == expected["input_ids"] and expected["input_ids"][-1] != code
    assert item.inputs["labels"] == expected["labels"] and expected["labels"][-1] == code
    plain = transformers.MBartForConditionalGeneration.from_pretrained(mbart).eval()
    encoded = {"input_ids": torch.tensor([expected["input_ids"]])}
    said = plain.generate(**encoded, decoder_start_token_id=code, max_new_tokens=9)
    (prediction,) = work.predict([ROWS[1]])
    assert prediction[0]["translation_text"] == tokenizer.decode(said[0], skip_special_tokens=True).strip()
    labels = torch.tensor([expected["labels"]])
    batch = work.task.collate([item], "loss")
    close(work.task.loss(work.model, batch), plain(**encoded, labels=labels).loss)
    folder = work.save(tmp_path / "model")
    assert topwork.load(folder).predict(ROWS) == work.predict(ROWS)
    with pytest.raises(UsageError, match="does not know the language `xx_YY`"):
        topwork.build("translation", str(mbart), target_language="xx_YY")


def test_codes_of_the_tokenizer_find_the_languages_of_the_data(mbart):
    work = topwork.build("translation", str(mbart), source_language="en_XX", target_language="de_DE")
    one, other = (work.task.encode(rows, "loss", 0) for rows in (ROWS, DICTS))
    assert [item.inputs for item in one] == [item.inputs for item in other]


def test_m2m100_is_forced_to_begin_with_the_language(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "text").write_text("\n".join(side for row in ROWS for side in row.values()) * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spm"), vocab_size=32, minloglevel=9
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    names = ["<s>", "<pad>", "</s>", "<unk>"] + [pieces.id_to_piece(number) for number in range(3, 32)]
    (tmp_path / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    tokenizer = transformers.M2M100Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "spm.model"))
    config = transformers.M2M100Config(**SEQ2SEQ, vocab_size=140, max_position_embeddings=64, decoder_start_token_id=2)
    folder = tmp_path / "m2m"
    transformers.M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    work = topwork.build("translation", str(folder), source_language="en", target_language="de", max_target_length=9)
    code = tokenizer.get_lang_id("de")
    assert work.model.generation_config.forced_bos_token_id == code
    (item,) = work.task.encode(ROWS[:1], "loss", 0)
    assert item.inputs["labels"][0] == code
    assert item.inputs["input_ids"][0] == tokenizer.get_lang_id("en")
    plain = transformers.M2M100ForConditionalGeneration.from_pretrained(folder).eval()
    said = plain.generate(torch.tensor([item.inputs["input_ids"]]), forced_bos_token_id=code, max_new_tokens=9)
    assert said[0, 1] == code
    (prediction,) = work.predict(ROWS[:1])
    assert prediction[0]["translation_text"] == tokenizer.decode(said[0], skip_special_tokens=True).strip()


# ---------------------------------------------------------------- bad input, learning

LANGUAGES = {"source_language": "en", "target_language": "de"}
BAD = {
    "no text": ({}, {"target": "x"}, "source", "missing"),
    "source is a number": ({}, {"source": 3, "target": "x"}, "source", "not text"),
    "no target": ({}, {"source": "x"}, "target", "missing"),
    "languages not given": ({}, DICTS[0], "translation", "has the languages en, de"),
    "no such language": (LANGUAGES, {"translation": {"en": "x", "fr": "y"}}, "translation", "no text in `de`"),
    "no dict": (LANGUAGES, {"translation": "x"}, "translation", "no dict"),
    "a text of the dict is None": (LANGUAGES, {"translation": {"en": "x", "de": None}}, "translation", "not text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_with_row_and_column(case):
    options, row, column, message = BAD[case]
    task = topwork.build("translation", {"config": {"model_type": "bart", **SEQ2SEQ}}, rows=ROWS, **options).task
    with pytest.raises(DataError, match=message) as caught:
        task.encode([ROWS[0], row], "loss", 0)
    assert (caught.value.row, caught.value.column) == (1, column)
    assert caught.value.hint


def test_options_that_contradict_each_other():
    base = {"config": {"model_type": "bart", **SEQ2SEQ}}
    with pytest.raises(UsageError, match="do_sample"):
        topwork.build("translation", base, rows=ROWS, generation={"temperature": 0.5})
    with pytest.raises(UsageError, match="source"):
        topwork.build("translation", base, rows=ROWS, prompt="translate")


def test_sampling_is_seeded():
    base = {"config": {"model_type": "bart", **SEQ2SEQ}}
    sampled = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 6}
    one, again, other = (
        topwork.build("translation", base, rows=ROWS, generation={**sampled, "seed": seed}).predict(ROWS)
        for seed in (1, 1, 2)
    )
    assert one == again != other
