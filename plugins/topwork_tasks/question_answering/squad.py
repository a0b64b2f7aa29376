"""Answers of question-answering: of rows, of windows, and exact match and F1 as SQuAD counts them.

Sources: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1; 2018, arXiv 1806.03822.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from topwork import DataError, Json, Metric, Row
from topwork_tasks._text.inputs import text_of
from topwork_tasks._text.metrics import UnicodeForm, in_unicode_form
from topwork_tasks._text.words import split_words, trim_span

if TYPE_CHECKING:
    import torch

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SHAPE = 'write {"text": [...], "answer_start": [...]}, both empty for no answer'
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def best_spans(start: torch.Tensor, end: torch.Tensor, count: int, longest: int) -> list[tuple[float, int, int]]:
    """Return (start + end logits, first token, last token) of the best spans of at most `longest` tokens, best first.

    Every span is scored, as the pipeline of transformers 4 did: the sums stand in a band [tokens, longest], one row
    for each first token.
    """
    if not len(start):
        return []
    from torch.nn.functional import pad

    longest = min(longest, len(start))
    band = start.double()[:, None] + pad(end.double(), (0, longest - 1), value=-math.inf).unfold(0, longest, 1)
    values, indices = band.flatten().topk(min(count, band.numel()))
    spans = [(value, *divmod(index, longest)) for value, index in zip(values.tolist(), indices.tolist())]
    within = [(value, first, first + further) for value, first, further in spans if value > -math.inf]
    return sorted(within, key=lambda span: (-span[0], span[1:]))


def rank_answers(
    context: str, spans: Sequence[tuple[float, int, int]], null: float | None, count: int, threshold: float
) -> list[dict[str, Any]]:
    """Return {score, start, end, answer} of the best answers, best first; `score` is a softmax over them.

    Args:
        context: the text that the spans are parts of.
        spans: (start + end logits, first character, end) from all windows.
        null: logits of "no answer", or None where there must be one.
        count: answers that compete.
        threshold: "no answer" is the first when its logits exceed those of the best span by more than this.
    """
    scores: dict[tuple[int, int], float] = {}
    for score, start, end in spans:
        start, end = trim_span(context, start, end)
        if start < end:
            scores[start, end] = max(score, scores.get((start, end), -math.inf))
    ranked = sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))[:count]
    answers = [(score, start, end, context[start:end]) for (start, end), score in ranked]
    if null is not None or not answers:
        absent = (0.0 if null is None else null, 0, 0, "")
        if not answers or absent[0] - answers[0][0] > threshold:
            answers = [absent, *answers]
        else:
            answers = [answers[0], *sorted([*answers[1:], absent], key=lambda answer: -answer[0])]
    peak = max(score for score, _, _, _ in answers)
    total = sum(math.exp(score - peak) for score, _, _, _ in answers)
    return [
        {"score": math.exp(score - peak) / total, "start": start, "end": end, "answer": answer}
        for score, start, end, answer in answers
    ]


def answer_texts(row: Row, index: int | None) -> list[str]:
    """Return the texts of a row's answers, none when there is no answer.

    Raises:
        DataError: missing, empty, or in no shape that is read.
    """
    return _texts_and_starts(row, index)[0]


def _texts_and_starts(row: Row, index: int | None) -> tuple[list[str], Any]:
    """Return texts of answers, and their starts as they are written, in any of the shapes that data sets have.

    The shapes: SQuAD's lists, one answer in them, a list of {text, answer_start}, texts, one text. Starts are None
    where none are written.

    Raises:
        DataError: missing, empty, or in none of them.
    """
    if "answers" not in row:
        raise DataError("is missing", row=index, column="answers", hint="map it in `data.columns`")
    value = row["answers"]
    if value is None:
        raise DataError("is empty", row=index, column="answers", hint=f"for no answer write []; else {_SHAPE}")
    texts, starts = _listed(value)
    if not _is_list(texts, str):
        raise DataError(f"{value!r} is not in SQuAD's shape", row=index, column="answers", hint=_SHAPE)
    return list(texts), starts


def _listed(value: Any) -> tuple[Any, Any]:
    """Return texts and starts as they are written; starts are None where none are."""
    if isinstance(value, str):
        return ([value] if value else []), None
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, str):
            return [texts], None if starts is None else [starts]
        return texts, starts
    if not isinstance(value, Iterable):
        return None, None
    entries = list(value)
    if entries and all(isinstance(entry, Mapping) and "text" in entry for entry in entries):
        return [entry["text"] for entry in entries], [entry.get("answer_start") for entry in entries]
    return entries, None


def _is_list(value: Any, kind: Any) -> bool:
    is_list = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    return is_list and all(isinstance(element, kind) and not isinstance(element, bool) for element in value)


def read_answers(row: Row, index: int | None) -> list[tuple[str, int]]:
    """Return (text, start) of each answer, checked against the context.

    An answer whose start is not written starts where the context has it first.

    Raises:
        DataError: in no shape that is read, or not at its start in the context.
    """
    texts, starts = _texts_and_starts(row, index)
    if starts is None:
        starts = [None] * len(texts)
    elif not _is_list(starts, Integral | None):
        cause = f"{row['answers']!r} has no `answer_start` of whole numbers"
        raise DataError(cause, row=index, column="answers", hint=_SHAPE)
    if len(texts) != len(starts):
        raise DataError(f"has {len(texts)} texts and {len(starts)} starts", row=index, column="answers", hint=_SHAPE)
    context = text_of(row, index, "context")
    answers = []
    for answer, written in zip(texts, starts):
        start = context.find(answer) if written is None else int(written)
        if not answer or start < 0 or context[start : start + len(answer)] != answer:
            where = "in the context" if written is None else f"at character {written} of the context"
            raise DataError(
                f"{answer!r} does not stand {where}",
                row=index,
                column="answers",
                hint="correct `answer_start` (characters, not bytes), or leave the row out",
            )
        answers.append((answer, start))
    return answers


def normalise(answer: str, punctuation: Literal["ascii", "unicode"] = "ascii", form: UnicodeForm = "none") -> str:
    """Return an answer as SQuAD compares it: lower case, no punctuation, no English articles, white space collapsed.

    Args:
        answer: the text.
        punctuation: "ascii" as SQuAD; "unicode" every character of category P or S, in every script.
        form: Unicode form, applied first.

    Example:
        >>> normalise("The  Eiffel Tower.")
        'eiffel tower'
        >>> normalise("«Le Monde»。", "unicode")
        'le monde'
    """
    answer = in_unicode_form(answer, form).lower()
    if punctuation == "ascii":
        answer = answer.translate(_PUNCTUATION)
    else:
        answer = "".join(letter for letter in answer if unicodedata.category(letter)[0] not in "PS")
    return " ".join(_ARTICLES.sub(" ", answer).split())


def f1(prediction: str, truth: str) -> float:
    """Return the overlap of the words of two normalised answers; 1 or 0 when either is empty.

    In scripts without spaces every sign is a word, as in MLQA (Lewis et al. 2020, arXiv 1910.07475).
    """
    words, true_words = split_words(prediction), split_words(truth)
    if not words or not true_words:
        return float(words == true_words)
    common = sum((Counter(words) & Counter(true_words)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(true_words)
    return 2 * precision * recall / (precision + recall)


class SquadMetric(Metric):
    """Exact match and F1 over all rows and over those with an answer, and how many rows without one were recognised.

    Each prediction counts against the truth that it fits best. All numbers are shares of one; what has no rows is NaN.

    Args:
        punctuation, form: of `normalise`.
    """

    keys = ("exact_match", "f1", "has_answer_exact_match", "has_answer_f1", "no_answer_accuracy")
    primary = "f1"

    def __init__(self, punctuation: Literal["ascii", "unicode"] = "ascii", form: UnicodeForm = "none") -> None:
        self.punctuation: Literal["ascii", "unicode"] = punctuation
        self.form: UnicodeForm = form
        self.with_answer = [0, 0.0, 0.0]  # rows, exact, f1
        self.without = [0, 0.0, 0.0]

    @override
    def update(self, row: Row, prediction: Any) -> None:
        truths = answer_texts(row, None)
        best = prediction[0] if isinstance(prediction, list) else prediction
        predicted = normalise(best["answer"], self.punctuation, self.form)
        # answers that are nothing but articles and punctuation would match the empty answer: they are left out
        normalised = [normalise(truth, self.punctuation, self.form) for truth in truths]
        normalised = [truth for truth in normalised if truth] or [""]
        sums = self.with_answer if truths else self.without
        sums[0] += 1
        sums[1] += max(float(predicted == truth) for truth in normalised)
        sums[2] += max(f1(predicted, truth) for truth in normalised)

    @override
    def merge(self, metric: SquadMetric) -> None:
        self.with_answer = [mine + theirs for mine, theirs in zip(self.with_answer, metric.with_answer)]
        self.without = [mine + theirs for mine, theirs in zip(self.without, metric.without)]

    @override
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
