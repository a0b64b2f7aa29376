"""Texts of speech recognition: reading, word and character error rates by jiwer, drawings."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any, Literal

from typing_extensions import override

from topwork import DataError, Json, Metric, Picture, Row
from topwork_tasks._text.metrics import UnicodeForm, in_unicode_form

Case = Literal["keep", "lower", "upper"]
#: signs of category P and S in the error rates
Punctuation = Literal["keep", "ignore"]
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_COUNTS = ("hits", "substitutions", "deletions", "insertions")


def transcript_text(row: Row, index: int | None, case: Case, column: str = "text") -> str:
    """Return a row's text with single spaces, in the given case. An empty text is silence."""
    if column not in row:
        raise DataError("is missing", row=index, column=column, hint="map it in `data.columns`")
    value = row[column]
    if not isinstance(value, str):
        raise DataError(
            f"holds {type(value).__name__}, which is no text",
            row=index,
            column=column,
            hint="write the words, or an empty text for silence",
        )
    text = " ".join(value.split())
    return text if case == "keep" else text.lower() if case == "lower" else text.upper()


def compared_text(text: str, form: UnicodeForm = "none", punctuation: Punctuation = "keep") -> str:
    """Return a text as the error rates compare it, with single spaces.

    Args:
        text: a transcript.
        form: Unicode form, applied first.
        punctuation: "ignore" leaves out every character of category P or S but the apostrophe inside a word.

    Example:
        >>> compared_text("«Well», it's   4 €!", "NFC", "ignore")
        "Well it's 4"
    """
    text = in_unicode_form(text, form)
    if punctuation == "ignore":
        apostrophes = {match.start() for match in _APOSTROPHE.finditer(text)}
        text = "".join(
            letter if index in apostrophes or unicodedata.category(letter)[0] not in "PS" else " "
            for index, letter in enumerate(text)
        )
    return " ".join(text.split())


class ErrorRates(Metric):
    """Word and character error rates over all rows: jiwer's counts, summed.

    Keys: wer and cer = (substitutions + deletions + insertions) / words (characters) of the truth; exact: the share of
    rows without an error. Where the truths have no word at all, a rate is 0 without insertions and 1 with them.
    Table: `words` and `characters`, the counts. Words stand between white space: of scripts without spaces between
    words, cer is the rate to look at.

    Args:
        case: of the truths.
        form: Unicode form of both texts.
        punctuation: of both texts.
    """

    keys = ("wer", "cer", "exact")
    primary = "wer"
    higher_is_better = False

    def __init__(self, case: Case = "keep", form: UnicodeForm = "none", punctuation: Punctuation = "keep") -> None:
        self.case: Case = case
        self.form: UnicodeForm = form
        self.punctuation: Punctuation = punctuation
        self.rows = self.exact = 0
        self.words = dict.fromkeys(_COUNTS, 0)
        self.characters = dict.fromkeys(_COUNTS, 0)

    @override
    def update(self, row: Row, prediction: Any) -> None:
        import jiwer

        truth, predicted = (
            compared_text(text, self.form, self.punctuation)
            for text in (transcript_text(row, None, self.case), prediction["text"])
        )
        for counts, alignment in (
            (self.words, jiwer.process_words(truth, predicted)),
            (self.characters, jiwer.process_characters(truth, predicted)),
        ):
            for name in _COUNTS:
                counts[name] += getattr(alignment, name)
        self.rows += 1
        self.exact += truth == predicted

    @override
    def merge(self, metric: ErrorRates) -> None:
        self.rows += metric.rows
        self.exact += metric.exact
        for name in _COUNTS:
            self.words[name] += metric.words[name]
            self.characters[name] += metric.characters[name]

    @override
    def result(self) -> dict[str, Json]:
        if not self.rows:
            return dict.fromkeys(self.keys, math.nan)
        return {
            "wer": _rate(self.words),
            "cer": _rate(self.characters),
            "exact": self.exact / self.rows,
            "words": dict(self.words),
            "characters": dict(self.characters),
        }


def _rate(counts: dict[str, int]) -> float:
    truth = counts["hits"] + counts["substitutions"] + counts["deletions"]
    wrong = counts["substitutions"] + counts["deletions"] + counts["insertions"]
    return wrong / truth if truth else float(wrong > 0)


def draw_transcript(row: Row, prediction: Any, case: Case, image: Any) -> Picture:
    """Draw the words that were understood, those that were not, and the truth beside them.

    Badness: the row's word errors for each word of the truth.
    """
    predicted = " ".join(prediction["text"].split())
    if not isinstance(row.get("text"), str):
        return Picture(f"understood `{predicted}`", 0.0, image, [(predicted, "predicted")])
    import jiwer

    truth = transcript_text(row, None, case)
    alignment = jiwer.process_words(truth, predicted)
    words, heard = truth.split(), predicted.split()
    pieces: list[tuple[str, str]] = []
    for part in alignment.alignments[0] if alignment.alignments else ():
        heard_words = " ".join(heard[part.hyp_start_idx : part.hyp_end_idx])
        wanted = " ".join(words[part.ref_start_idx : part.ref_end_idx])
        if part.type == "equal":
            pieces.append((heard_words + " ", "right"))
        else:
            pieces += [(heard_words + " ", "wrong")] if heard_words else []
            pieces += [(wanted + " ", "truth")] if wanted else []
    errors = alignment.substitutions + alignment.deletions + alignment.insertions
    badness, facts = errors / max(1, len(words)), {"truth": truth, "prediction": predicted, "word errors": errors}
    caption, measure = f"understood `{predicted}`, said was `{truth}`", "word errors for each word of the truth"
    return Picture(caption, badness, image, pieces, facts=facts, measure=measure)
