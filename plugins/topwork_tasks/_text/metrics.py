"""Texts against texts: ROUGE, sacreBLEU, chrF, exact match and lengths as one streaming metric."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from topwork import Json, Metric, Row

_ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeL", "rougeLsum": "rougeLsum"}
KEYS = {
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    "bleu": ("bleu",),
    "chrf": ("chrf",),
    "exact_match": ("exact_match",),
    "length": ("length", "length_ratio"),
}


class Words:
    """The words of a text in any script, in lower case, for rouge-score (whose own tokenizer keeps a-z and 0-9 only).

    Letters, digits and the marks that belong to them make words; a sign of a script that is written without spaces
    (Han, kana, Thai, Lao, Khmer, Myanmar) is a word by itself. On English it gives what rouge-score's own gives.
    """

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = []
        word = ""
        for sign in text.lower():
            inside = sign.isalnum() or unicodedata.category(sign).startswith("M")
            alone = inside and _unspaced(sign)
            if word and (alone or not inside):
                words.append(word)
                word = ""
            if alone:
                words.append(sign)
            elif inside:
                word += sign
        return [*words, word] if word else words


def _unspaced(sign: str) -> bool:
    code = ord(sign)
    return (
        0x0E00 <= code <= 0x0EFF
        or 0x1000 <= code <= 0x109F
        or 0x1780 <= code <= 0x17FF
        or 0x3040 <= code <= 0x30FF
        or 0x3400 <= code <= 0x9FFF
        or 0x20000 <= code <= 0x3FFFF
    )


class TextMetric(Metric):
    """Predicted texts against the true ones.

    Args:
        kinds: what to measure, of "rouge", "bleu", "chrf", "exact_match", "length"; the first key of the first is
            `primary`.
        truth: answers the true text of a row.
        said: answers the text of a prediction.

    Keys: rouge1, rouge2, rougeL, rougeLsum (F1, 0..1, mean over rows, Lin 2004; rougeLsum takes lines for sentences);
    bleu, chrf (0..100, of the corpus, by sacrebleu, with their signatures); exact_match (share of rows); length (mean
    words of a prediction) and length_ratio (all predicted words by all true words).
    """

    def __init__(self, kinds: Sequence[str], truth: Callable[[Row], str], said: Callable[[Any], str]) -> None:
        self.kinds, self.truth, self.said = tuple(kinds), truth, said
        self.keys = tuple(key for kind in self.kinds for key in KEYS[kind])
        self.primary = self.keys[0]
        self.rows = self.exact = self.words = self.true_words = 0
        self.rouge = dict.fromkeys(_ROUGE, 0.0)
        self.texts: list[tuple[str, str]] = []
        self._scorer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "truth": None, "said": None, "_scorer": None}

    def update(self, row: Row, prediction: Any) -> None:
        said, true = self.said(prediction), self.truth(row).strip()
        self.rows += 1
        self.exact += said == true
        if "length" in self.kinds:
            self.words += len(Words().tokenize(said))
            self.true_words += len(Words().tokenize(true))
        if "rouge" in self.kinds:
            for key, score in self._rouge().score(true, said).items():
                self.rouge[key] += float(score.fmeasure)
        if {"bleu", "chrf"} & set(self.kinds):
            self.texts.append((said, true))

    def _rouge(self) -> Any:
        if self._scorer is None:
            from rouge_score.rouge_scorer import RougeScorer

            self._scorer = RougeScorer(list(_ROUGE), tokenizer=Words())
        return self._scorer

    def merge(self, other: TextMetric) -> None:
        for name in ("rows", "exact", "words", "true_words"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, value in other.rouge.items():
            self.rouge[key] += value
        self.texts += other.texts

    def result(self) -> dict[str, Json]:
        if not self.rows:
            return dict.fromkeys(self.keys, math.nan)
        found: dict[str, Json] = {}
        for kind in self.kinds:
            if kind == "rouge":
                found.update({key: value / self.rows for key, value in self.rouge.items()})
            elif kind == "exact_match":
                found["exact_match"] = self.exact / self.rows
            elif kind == "length":
                found["length"] = self.words / self.rows
                found["length_ratio"] = self.words / self.true_words if self.true_words else math.nan
            else:
                found.update(self._corpus(kind))
        return found

    def _corpus(self, kind: str) -> dict[str, Json]:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        scorer: Any = BLEU() if kind == "bleu" else CHRF()
        said, true = zip(*self.texts)
        score = scorer.corpus_score(list(said), [list(true)])
        return {kind: float(score.score), f"{kind}_signature": str(scorer.get_signature())}
