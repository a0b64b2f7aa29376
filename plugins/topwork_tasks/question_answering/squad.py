"""Question answering's answers and numbers: what a row says, the best spans of a window, and exact match and F1 as
SQuAD counts them (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1; 2018, arXiv 1806.03822).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

from topwork import DataError, Json, Metric, Row

if TYPE_CHECKING:
    import torch

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SHAPE = 'write {"text": [...], "answer_start": [...]}, both empty for no answer'
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def best_spans(start: torch.Tensor, end: torch.Tensor, count: int, longest: int) -> list[tuple[float, int, int]]:
    """(start + end logits, first token, last token) of the best spans of at most `longest` tokens, best first.

    Every span is looked at, as the pipeline of transformers 4 did: the sums stand in a band [tokens, longest], one row
    for each first token.
    """
    if not len(start):
        return []
    from torch.nn.functional import pad

    longest = min(longest, len(start))
    band = start.double()[:, None] + pad(end.double(), (0, longest - 1), value=-math.inf).unfold(0, longest, 1)
    values, places = band.flatten().topk(min(count, band.numel()))
    spans = [(value, *divmod(place, longest)) for value, place in zip(values.tolist(), places.tolist())]
    found = [(value, first, first + further) for value, first, further in spans if value > -math.inf]
    return sorted(found, key=lambda entry: (-entry[0], entry[1:]))


def answer_texts(row: Row, number: int | None) -> list[str]:
    """The texts of a row's answers, none when there is no answer.

    Raises:
        DataError: missing, or not in SQuAD's shape.
    """
    if "answers" not in row:
        raise DataError("is missing", row=number, column="answers", hint="map it in `data.columns`")
    texts = row["answers"].get("text") if isinstance(row["answers"], Mapping) else None
    if texts is None or not _is_list(texts, str):
        raise DataError(f"{row['answers']!r} is not in SQuAD's shape", row=number, column="answers", hint=_SHAPE)
    return list(texts)


def _is_list(value: Any, kind: Any) -> bool:
    listed = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    return listed and all(isinstance(entry, kind) for entry in value)


def read_answers(row: Row, number: int) -> list[tuple[str, int]]:
    """(text, start) of each answer, checked against the context."""
    texts, starts, context = answer_texts(row, number), row["answers"].get("answer_start"), row.get("context")
    if not _is_list(starts, Integral):
        cause = f"{row['answers']!r} has no `answer_start` of whole numbers"
        raise DataError(cause, row=number, column="answers", hint=_SHAPE)
    if len(texts) != len(starts):
        raise DataError(f"has {len(texts)} texts and {len(starts)} starts", row=number, column="answers", hint=_SHAPE)
    if not isinstance(context, str):
        raise DataError("is no text", row=number, column="context", hint="make it a string")
    for answer, start in zip(texts, starts):
        if not answer or context[start : start + len(answer)] != answer or start < 0:
            raise DataError(
                f"{answer!r} does not stand at character {start} of the context",
                row=number,
                column="answers",
                hint="correct `answer_start` (characters, not bytes), or leave the row out",
            )
    return list(zip(texts, starts))


def trim(context: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends: some tokenizers count a word's leading space to it."""
    while start < end and context[start].isspace():
        start += 1
    while end > start and context[end - 1].isspace():
        end -= 1
    return start, end


def normalise(answer: str) -> str:
    """Lower case, without punctuation and articles, white space collapsed: SQuAD's way of comparing answers."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def f1(guess: str, truth: str) -> float:
    """Overlap of the words of two answers; 1 or 0 when either is empty."""
    words, wanted = normalise(guess).split(), normalise(truth).split()
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


class SquadMetric(Metric):
    """Exact match and F1 over all rows and over those with an answer, and how many rows without one were recognised.

    Each prediction counts against the truth that it fits best. All numbers are shares of one; what has no rows is NaN.
    """

    keys = ("exact_match", "f1", "has_answer_exact_match", "has_answer_f1", "no_answer_accuracy")
    primary = "f1"

    def __init__(self) -> None:
        self.with_answer = [0, 0.0, 0.0]  # rows, exact, f1
        self.without = [0, 0.0, 0.0]

    def update(self, row: Row, prediction: Any) -> None:
        truths = answer_texts(row, None)
        best = prediction[0] if isinstance(prediction, list) else prediction
        # answers that are nothing but articles and punctuation would match the empty answer: they are left out
        wanted = [truth for truth in truths if normalise(truth)] or [""]
        sums = self.with_answer if truths else self.without
        sums[0] += 1
        sums[1] += max(float(normalise(best["answer"]) == normalise(truth)) for truth in wanted)
        sums[2] += max(f1(best["answer"], truth) for truth in wanted)

    def merge(self, other: SquadMetric) -> None:
        self.with_answer = [mine + theirs for mine, theirs in zip(self.with_answer, other.with_answer)]
        self.without = [mine + theirs for mine, theirs in zip(self.without, other.without)]

    def result(self) -> dict[str, Json]:
        both = [mine + theirs for mine, theirs in zip(self.with_answer, self.without)]
        return {
            "exact_match": _share(both, 1),
            "f1": _share(both, 2),
            "has_answer_exact_match": _share(self.with_answer, 1),
            "has_answer_f1": _share(self.with_answer, 2),
            "no_answer_accuracy": _share(self.without, 1),
        }


def _share(sums: list[float], index: int) -> float:
    return sums[index] / sums[0] if sums[0] else math.nan
