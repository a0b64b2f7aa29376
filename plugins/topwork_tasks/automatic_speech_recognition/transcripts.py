"""Texts of speech recognition: written alike before they are compared, word and character error rates by jiwer, and
the difference between what was said and what was understood, for people.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from topwork import DataError, Json, Metric, Picture, Row

Case = Literal["keep", "lower", "upper"]
_COUNTS = ("hits", "substitutions", "deletions", "insertions")


def text_of(row: Row, number: int | None, case: Case, column: str = "text") -> str:
    """A row's text with single spaces, in the given case. An empty text is silence."""
    if column not in row:
        raise DataError("is missing", row=number, column=column, hint="map it in `data.columns`")
    value = row[column]
    if not isinstance(value, str):
        raise DataError(
            f"holds {type(value).__name__}, which is no text",
            row=number,
            column=column,
            hint="write the words, or an empty text for silence",
        )
    text = " ".join(value.split())
    return text if case == "keep" else text.lower() if case == "lower" else text.upper()


class ErrorRates(Metric):
    """Word and character error rates over all rows: jiwer's counts, summed.

    Keys: wer and cer = (substitutions + deletions + insertions) / words (characters) of the truth; exact: the share of
    rows without an error. Where the truths have no word at all, a rate is 0 without insertions and 1 with them.
    Table: `words` and `characters`, the counts.
    """

    keys = ("wer", "cer", "exact")
    primary = "wer"
    higher_is_better = False

    def __init__(self, case: Case = "keep") -> None:
        self.case: Case = case
        self.rows = self.exact = 0
        self.words = dict.fromkeys(_COUNTS, 0)
        self.characters = dict.fromkeys(_COUNTS, 0)

    def update(self, row: Row, prediction: Any) -> None:
        import jiwer

        truth, said = text_of(row, None, self.case), " ".join(prediction["text"].split())
        for counts, found in (
            (self.words, jiwer.process_words(truth, said)),
            (self.characters, jiwer.process_characters(truth, said)),
        ):
            for name in _COUNTS:
                counts[name] += getattr(found, name)
        self.rows += 1
        self.exact += truth == said

    def merge(self, other: ErrorRates) -> None:
        self.rows += other.rows
        self.exact += other.exact
        for name in _COUNTS:
            self.words[name] += other.words[name]
            self.characters[name] += other.characters[name]

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


def draw(row: Row, prediction: Any, case: Case, image: Any) -> Picture:
    """Words that were understood, those that were not, and the truth beside them. Badness: the row's word errors for
    each word of the truth."""
    said = " ".join(prediction["text"].split())
    if not isinstance(row.get("text"), str):
        return Picture(f"understood `{said}`", 0.0, image, [(said, "predicted")])
    import jiwer

    truth = text_of(row, None, case)
    found = jiwer.process_words(truth, said)
    words, heard = truth.split(), said.split()
    pieces: list[tuple[str, str]] = []
    for part in found.alignments[0] if found.alignments else ():
        told = " ".join(heard[part.hyp_start_idx : part.hyp_end_idx])
        wanted = " ".join(words[part.ref_start_idx : part.ref_end_idx])
        if part.type == "equal":
            pieces.append((told + " ", "right"))
        else:
            pieces += [(told + " ", "wrong")] if told else []
            pieces += [(wanted + " ", "truth")] if wanted else []
    errors = found.substitutions + found.deletions + found.insertions
    return Picture(f"understood `{said}`, said was `{truth}`", errors / max(1, len(words)), image, pieces)
