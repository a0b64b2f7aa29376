"""Metrics of texts: BLEU in every script and of short texts, primary metrics, Unicode forms, punctuation."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import sacrebleu
from scripts import BERT

import topwork

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
T5 = {"model_type": "t5", "d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 64, "d_kv": 8}

#: script -> (true texts, the tokenizer of sacreBLEU that is right for it)
CORPORA = {
    "Chinese": (["大家早上好", "我爱北京天安门", "今天天气很好"], "zh"),
    "Chinese with Latin names": (["我在Google工作了三年", "他用Python写程序"], "zh"),
    "Japanese": (["おはようございます", "東京タワーへ行きました"], "char"),
    "Thai": (["สวัสดีครับ", "วันนี้อากาศดี"], "char"),
    "Khmer": (["ភាសាខ្មែរ", "សួស្តីអ្នក"], "char"),
    "Burmese": (["မင်္ဂလာပါ", "မြန်မာဘာသာ"], "char"),
    "Lao": (["ສະບາຍດີ", "ຂອບໃຈຫຼາຍໆ"], "char"),
    "Tibetan": (["བཀྲ་ཤིས་བདེ་ལེགས", "ཐུགས་རྗེ་ཆེ"], "char"),
    "Korean": (["오늘은 날씨가 매우 좋습니다 그렇죠", "저는 서울에서 오래 살고 있습니다"], "13a"),
    "Hindi": (["मेरा घर दिल्ली में है", "आज मौसम बहुत अच्छा है"], "13a"),
    "Arabic": (["الطقس جميل جدا اليوم هنا", "أنا أعيش في القاهرة منذ سنوات"], "13a"),
    "English": (["the cat sat on the mat", "a bird sang in the tree"], "13a"),
}
SHORT = {"English": ["hello world", "good day"], "Chinese": ["你好", "再见"], "one word": ["yes", "no"]}


def as_rows(task: str, texts: list[str]) -> list[dict[str, Any]]:
    if task == "translation":
        return [{"source": "x", "target": text} for text in texts]
    return [{"prompt": "x", "completion": text} for text in texts]


def metrics(task: str, texts: list[str], predictions: list[str], **options: Any) -> tuple[Any, dict[str, Any]]:
    """The task's metric and its result, over these predicted texts."""
    base = T5 if task == "translation" else GPT2
    rows = as_rows(task, texts)
    work = topwork.build(task, {"config": base}, rows=rows, **options)
    metric = work.task.metric()
    for row, text in zip(rows, predictions, strict=True):
        if task == "translation":
            metric.update(row, [{"translation_text": text}])
        else:
            prediction = work.task.merge(row, [{"completion": text, "nll": 1.0, "tokens": 1, "hits": 1}])
            metric.update(row, prediction)
    return metric, metric.result()


BLEU_TASKS = ("translation", "text-generation")


@pytest.mark.parametrize("task", BLEU_TASKS)
@pytest.mark.parametrize("script", CORPORA)
def test_bleu_of_perfect_texts_is_100_in_every_script(script, task):
    texts, tokenizer = CORPORA[script]
    _, result = metrics(task, texts, texts)
    assert result["bleu"] == pytest.approx(100)
    assert f"tok:{tokenizer}|" in result["bleu_signature"]
    changed = [text[:-1] for text in texts]
    _, worse = metrics(task, texts, changed)
    assert 0 < worse["bleu"] < 100
    assert worse["bleu"] == pytest.approx(sacrebleu.corpus_bleu(changed, [texts], tokenize=tokenizer).score)


@pytest.mark.parametrize("task", BLEU_TASKS)
@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char", "zh", "none"])
def test_the_tokenizer_of_bleu_is_an_option(tokenizer, task):
    texts = CORPORA["English"][0]
    _, result = metrics(task, texts, texts[::-1], bleu_tokenizer=tokenizer)
    assert f"tok:{tokenizer}|" in result["bleu_signature"]
    assert result["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts[::-1], [texts], tokenize=tokenizer).score)


@pytest.mark.parametrize("task", BLEU_TASKS)
@pytest.mark.parametrize("script", SHORT)
def test_bleu_of_texts_of_fewer_than_four_tokens_is_undefined(script, task):
    texts = SHORT[script]
    metric, perfect = metrics(task, texts, texts)
    assert math.isnan(perfect["bleu"])
    _, wrong = metrics(task, texts, [text[::-1] for text in texts])
    assert math.isnan(wrong["bleu"])
    if task == "translation":
        assert perfect[metric.primary] > wrong[metric.primary]


def test_one_long_truth_makes_bleu_defined():
    texts = ["hello world", "the cat sat on the mat"]
    _, result = metrics("translation", texts, texts)
    assert result["bleu"] == pytest.approx(100)


@pytest.mark.parametrize("script", [*CORPORA, *SHORT])
def test_the_primary_metric_of_translation_is_no_constant(script):
    texts = SHORT[script] if script in SHORT else CORPORA[script][0]
    metric, perfect = metrics("translation", texts, texts)
    _, wrong = metrics("translation", texts, ["" for _ in texts])
    assert metric.primary == "chrf"
    assert perfect["chrf"] == pytest.approx(100) and wrong["chrf"] == 0


# ---------------------------------------------------------------- Unicode forms


WORDS = {"Latin": ("café", "cafe\u0301"), "Japanese": ("が", "か\u3099"), "Korean": ("한", "\u1112\u1161\u11ab")}


@pytest.mark.parametrize("task", BLEU_TASKS)
@pytest.mark.parametrize("script", WORDS)
def test_a_unicode_form_makes_composed_and_decomposed_texts_equal(script, task):
    composed, decomposed = WORDS[script]
    for truth, prediction in ((composed, decomposed), (decomposed, composed)):
        _, plain = metrics(task, [truth], [prediction])
        _, normalised = metrics(task, [truth], [prediction], normalise="NFC")
        assert (plain["exact_match"], normalised["exact_match"]) == (0.0, 1.0)


def squad_metrics(truth: str, answer: str, **options: Any) -> dict[str, Any]:
    row = {"question": "q", "context": truth, "answers": {"text": [truth], "answer_start": [0]}}
    work = topwork.build("question-answering", {"config": {"model_type": "bert", **BERT}}, rows=[row], **options)
    metric = work.task.metric()
    metric.update(row, {"score": 1.0, "start": 0, "end": 0, "answer": answer})
    return metric.result()


@pytest.mark.parametrize(
    ("truth", "answer", "wanted"),
    [
        ("北京大学", "北京", 2 / 3),
        ("東京タワー", "東京", 4 / 7),
        ("ในกรุงเทพ", "กรุงเทพ", 12 / 14),
        ("Seoul 서울 시", "서울 시", 0.8),
        ("the old town", "old town hall", 0.8),
    ],
)
def test_answers_overlap_in_the_words_of_their_script(truth, answer, wanted):
    assert squad_metrics(truth, answer)["f1"] == pytest.approx(wanted)


@pytest.mark.parametrize("script", WORDS)
def test_answers_are_compared_in_a_unicode_form_on_request(script):
    composed, decomposed = WORDS[script]
    assert squad_metrics(composed, decomposed)["exact_match"] == 0.0
    assert squad_metrics(composed, decomposed, normalise="NFC")["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("truth", "answer"),
    [
        ("北京大学", "北京大学。"),
        ("Le Monde", "«Le Monde»"),
        ("القاهرة", "القاهرة؟"),
        ("नमस्ते", "नमस्ते।"),
        ("Lima", "“Lima”"),
    ],
)
def test_punctuation_of_every_script_is_left_out_on_request(truth, answer):
    assert squad_metrics(truth, answer)["f1"] < 1.0
    assert squad_metrics(truth, answer, punctuation="unicode") == pytest.approx(
        squad_metrics(truth, truth, punctuation="unicode"), nan_ok=True
    )
    assert json.loads(json.dumps(squad_metrics(truth, truth)["f1"])) == 1.0
