"""Texts against texts: ROUGE, sacreBLEU, chrF, exact match and lengths, streaming (`TextMetric`) and for one pair.

BLEU is made in `corpus_bleu` alone. Its tokenizer follows the script of the true texts, and its signature says which.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Literal

from topwork import Json, Metric, Row, UsageError
from topwork_tasks._text.words import rouge_words, unspaced_share

#: Unicode form of texts before they are compared
UnicodeForm = Literal["none", "NFC", "NFKC"]
#: tokenizers of sacreBLEU that work offline
BleuTokenizer = Literal["auto", "13a", "intl", "zh", "char", "ja-mecab", "ko-mecab", "none"]

_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
KEYS = {
    "rouge": _ROUGE,
    "bleu": ("bleu",),
    "chrf": ("chrf",),
    "exact_match": ("exact_match",),
    "length": ("length", "length_ratio"),
}


def in_unicode_form(text: str, form: UnicodeForm) -> str:
    """Return the text in a Unicode form, so that composed and decomposed letters are equal; "none" changes nothing."""
    return text if form == "none" else unicodedata.normalize(form, text)


class RougeTokenizer:
    """Words of any script for rouge-score, whose own tokenizer keeps a-z and 0-9 only; see `rouge_words`."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text in lower case."""
        return rouge_words(text)


def rouge_l(prediction: str, truth: str) -> float:
    """Return F1 of the longest common subsequence of words (Lin 2004), by rouge-score."""
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], tokenizer=RougeTokenizer()).score(truth, prediction)["rougeL"].fmeasure)


def choose_bleu_tokenizer(truths: Sequence[str]) -> Literal["13a", "zh", "char"]:
    """Choose the tokenizer of sacreBLEU by script.

    "13a" for scripts with spaces between words; "zh" where most words are Han signs and no other script without spaces
    occurs; "char" for the others without spaces (Japanese, Thai, Khmer ...).
    """
    unspaced, han = unspaced_share(truths)
    if unspaced < 0.5:
        return "13a"
    return "zh" if han == unspaced else "char"


def corpus_bleu(
    predictions: Sequence[str], truths: Sequence[str], tokenizer: BleuTokenizer = "auto"
) -> tuple[float, str]:
    """Return sacreBLEU of a corpus, 0 to 100, and its signature.

    NaN when no true text has four tokens: then there is no 4-gram to match, and 0 would say nothing of the predictions.

    Raises:
        UsageError: the tokenizer needs a package that is not installed.
    """
    from sacrebleu.metrics.bleu import BLEU

    name = choose_bleu_tokenizer(truths) if tokenizer == "auto" else tokenizer
    try:
        bleu: Any = BLEU(tokenize=name)
    except (RuntimeError, ImportError) as error:
        raise UsageError(
            f"sacreBLEU's tokenizer {name!r} cannot be made: {str(error).strip().splitlines()[0]}",
            hint="install what it needs, or set `bleu_tokenizer: char`",
        ) from error
    score = float(bleu.corpus_score(list(predictions), [list(truths)]).score)
    if not any(len(bleu.tokenizer(truth).split()) >= bleu.max_ngram_order for truth in truths):
        score = math.nan
    return score, str(bleu.get_signature())


class TextMetric(Metric):
    """Predicted texts against the true ones.

    Keys: rouge1, rouge2, rougeL, rougeLsum (F1, 0 to 1, mean over rows, Lin 2004; rougeLsum takes lines for sentences);
    bleu, chrf (0 to 100, of the corpus, by sacrebleu, with their signatures; sacrebleu's chrF leaves out rows whose
    truth is empty); exact_match (share of rows); length (mean words of a prediction) and length_ratio (all predicted
    words by all true words).

    Args:
        kinds: measures, of "rouge", "bleu", "chrf", "exact_match", "length"; the first key of the first is `primary`.
        truth: returns the true text of a row.
        prediction_text: returns the text of a prediction.
        bleu_tokenizer: of sacreBLEU; "auto" chooses by the script of the truths.
        form: Unicode form of both texts before they are compared.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        truth: Callable[[Row], str],
        prediction_text: Callable[[Any], str],
        bleu_tokenizer: BleuTokenizer = "auto",
        form: UnicodeForm = "none",
    ) -> None:
        self.kinds, self.truth, self.prediction_text = tuple(kinds), truth, prediction_text
        self.bleu_tokenizer: BleuTokenizer = bleu_tokenizer
        self.form: UnicodeForm = form
        self.keys = tuple(key for kind in self.kinds for key in KEYS[kind])
        self.primary = self.keys[0]
        self.rows = self.exact = self.words = self.true_words = 0
        self.rouge = dict.fromkeys(_ROUGE, 0.0)
        self.texts: list[tuple[str, str]] = []
        self._scorer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "truth": None, "prediction_text": None, "_scorer": None}

    def update(self, row: Row, prediction: Any) -> None:
        predicted = in_unicode_form(self.prediction_text(prediction), self.form)
        true = in_unicode_form(self.truth(row).strip(), self.form)
        self.rows += 1
        self.exact += predicted == true
        if "length" in self.kinds:
            self.words += len(rouge_words(predicted))
            self.true_words += len(rouge_words(true))
        if "rouge" in self.kinds:
            for key, score in self._rouge().score(true, predicted).items():
                self.rouge[key] += float(score.fmeasure)
        if {"bleu", "chrf"} & set(self.kinds):
            self.texts.append((predicted, true))

    def _rouge(self) -> Any:
        if self._scorer is None:
            from rouge_score.rouge_scorer import RougeScorer

            self._scorer = RougeScorer(list(_ROUGE), tokenizer=RougeTokenizer())
        return self._scorer

    def merge(self, metric: TextMetric) -> None:
        for name in ("rows", "exact", "words", "true_words"):
            setattr(self, name, getattr(self, name) + getattr(metric, name))
        for key, value in metric.rouge.items():
            self.rouge[key] += value
        self.texts += metric.texts

    def result(self) -> dict[str, Json]:
        if not self.rows:
            return dict.fromkeys(self.keys, math.nan)
        result: dict[str, Json] = {}
        for kind in self.kinds:
            if kind == "rouge":
                result.update({key: value / self.rows for key, value in self.rouge.items()})
            elif kind == "exact_match":
                result["exact_match"] = self.exact / self.rows
            elif kind == "length":
                result["length"] = self.words / self.rows
                result["length_ratio"] = self.words / self.true_words if self.true_words else math.nan
            else:
                result.update(self._corpus(kind))
        return result

    def _corpus(self, kind: str) -> dict[str, Json]:
        predictions, truths = (list(texts) for texts in zip(*self.texts))
        if kind == "bleu":
            score, signature = corpus_bleu(predictions, truths, self.bleu_tokenizer)
        else:
            from sacrebleu.metrics.chrf import CHRF

            chrf = CHRF()
            score = float(chrf.corpus_score(predictions, [truths]).score)
            signature = str(chrf.get_signature())
        return {kind: score, f"{kind}_signature": signature}
