"""Rows of token-classification: their words and true tags, the names of tags, and predictions read from tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from topwork import Base, DataError, Json, Picture, Row, TopworkError
from topwork_tasks._classification.labels import class_names, label_number
from topwork_tasks._text.inputs import text_of
from topwork_tasks._text.spans import Span, find_words, join_words, speakers
from topwork_tasks.token_classification.entities import OUTSIDE, Entity, Scheme, groups, span_tags, split_tag

#: tokens as the model judged them: (number of the tag, its probability, the token's number, its characters)
Judged = list[tuple[int, float, int, Span]]


def text_and_words(row: Row, number: int | None) -> tuple[str, list[Span]]:
    """The text of a row, and where its words stand in it."""
    words = row.get("words")
    if words is None:
        if row.get("text") is None:
            raise DataError("is missing", row=number, column="words", hint="give `words`, or `text`: `data.columns`")
        text = text_of(row, number or 0, "text")
        return text, find_words(text)
    if isinstance(words, str) or not isinstance(words, Iterable) or not all(isinstance(word, str) for word in words):
        raise DataError("is no list of strings", row=number, column="words", hint="split the text, or use `text`")
    return join_words(list(words))


def true_tags(
    row: Row, number: int | None, words: Sequence[Span], names: Sequence[str], declared: Sequence[str] | None
) -> list[int]:
    """The tag of each word, by its number among the names.

    Raises:
        DataError: no targets, another number of tags than words, an unknown tag.
    """
    if row.get("words") is None:
        marks: Sequence[Any] = span_tags(words, true_spans(row, number))
        declared = None
    else:
        marks = _listed(row, "tags", number)
        if len(marks) != len(words):
            raise DataError(
                f"has {len(marks)} tags for {len(words)} words", row=number, column="tags", hint="correct the row"
            )
    column = "spans" if row.get("words") is None else "tags"
    return [label_number(mark, names, declared, number, column) for mark in marks]


def true_spans(row: Row, number: int | None) -> list[Entity]:
    """The spans of a text: (label, start, end), each within the text."""
    text = text_of(row, number or 0, "text")
    found = []
    for entry in _listed(row, "spans", number):
        try:
            label, start, end = str(entry["label"]), int(entry["start"]), int(entry["end"])
            if entry["label"] is None:
                raise TypeError("no label")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{entry!r} is no span", row=number, column="spans", hint="write {start, end, label}"
            ) from error
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"the span {start} to {end} does not lie in the text of {len(text)} characters",
                row=number,
                column="spans",
                hint="count characters from 0; `end` is the one behind the last",
            )
        found.append((label, start, end))
    return sorted(found, key=lambda span: (span[1], span[2]))


def _listed(row: Row, column: str, number: int | None) -> list[Any]:
    value = row.get(column)
    if value is None or isinstance(value, str | dict) or not isinstance(value, Iterable):
        cause = "is missing" if value is None else "is no list"
        raise DataError(cause, row=number, column=column, hint="map it in `data.columns`; an empty list for none")
    return list(value)


# ---------------------------------------------------------------- names of tags


def learn_names(
    rows: Any, base: Base, auto: Sequence[str], names: Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    """Names of all tags in the order of the model's outputs, and what the data's integers stand for.

    The checkpoint's trained task head wins, then the option, then what the data set declares, then what occurs: `O`
    first, the others sorted by type and prefix.
    """
    declared = list(names) if names else class_names(rows, "tags")
    trained = base.trained_labels(*auto)
    if trained is not None:
        return list(trained), declared
    if declared:
        return list(declared), declared
    if rows is None:
        raise TopworkError(
            "the tags are not known",
            hint="give training rows, the option `label_names`, or a base with a trained task head",
        )
    found: set[str] = set()
    for number, row in enumerate(rows):
        if row.get("words") is None:
            kinds = {kind for kind, _, _ in true_spans(row, number)}
            found |= {OUTSIDE} | {f"{prefix}-{kind}" for kind in kinds for prefix in "BI"}
        else:
            found |= {_named(mark, number) for mark in _listed(row, "tags", number)}
    if len(found) < 2:
        raise DataError(f"has only the tags {sorted(found)}", column="tags", hint="give rows with two tags or more")
    return sorted(found, key=lambda name: (name != OUTSIDE, split_tag(name)[1], name)), None


def _named(mark: Any, number: int) -> str:
    if isinstance(mark, bool | float) or not isinstance(mark, str | int):
        raise DataError(f"{mark!r} is no tag", row=number, column="tags", hint="tags are strings or integers")
    return str(mark)


def sequences(rows: Any, names: Sequence[str], declared: Sequence[str] | None) -> Iterator[list[str]]:
    """The tags of each row by name, for telling the scheme; nothing without rows."""
    for number, row in enumerate(rows if rows is not None else ()):
        _, words = text_and_words(row, number)
        yield [names[tag] for tag in true_tags(row, number, words, names, declared)]


def continuing(names: Sequence[str]) -> list[int]:
    """For each tag the one that later tokens of its word learn: I-X for B-X where there is one, else the same."""
    return [
        names.index(f"I-{name[2:]}") if name.startswith("B-") and f"I-{name[2:]}" in names else number
        for number, name in enumerate(names)
    ]


class Truth:
    """Reads what is true of a row: the tags of its words, or the spans of its text."""

    def __init__(self, names: Sequence[str], declared: Sequence[str] | None) -> None:
        self.names, self.declared = names, declared

    def __call__(self, row: Row) -> tuple[list[str] | None, list[Entity]]:
        _, words = text_and_words(row, None)
        if row.get("words") is None:
            true_tags(row, None, words, self.names, self.declared)  # refuses labels that nobody knows
            return None, true_spans(row, None)
        return [self.names[tag] for tag in true_tags(row, None, words, self.names, self.declared)], []


# ---------------------------------------------------------------- predictions


class TagPrediction(list):
    """A prediction in the pipeline's shape; beside it the tag of each word and the entities as spans of characters."""

    tags: list[str]
    spans: list[Entity]

    def __reduce__(self) -> tuple:
        return _restore, (list(self), self.tags, self.spans)


def _restore(entries: list[Json], tags: list[str], spans: list[Entity]) -> TagPrediction:
    made = TagPrediction(entries)
    made.tags, made.spans = tags, spans
    return made


def read_tokens(
    tokenizer: Any,
    judged: Judged,
    text: str,
    words: Sequence[Span],
    names: Sequence[str],
    scheme: Scheme,
    aggregation: str,
) -> TagPrediction:
    """What the tokens of a whole text say: entities or tokens as the Hub's pipeline gives them (a token that the
    vocabulary lacks by the characters that it covers), and the tag of each word, which is that of its first token."""
    marks = [names[number] for number, _, _, _ in judged]
    offsets = [offset for _, _, _, offset in judged]
    pieces = tokenizer.convert_ids_to_tokens([token for _, _, token, _ in judged])
    for place, (_, _, token, (start, end)) in enumerate(judged):
        if token == tokenizer.unk_token_id:
            pieces[place] = text[start:end]
    made = TagPrediction()
    if aggregation == "none":
        for place, (mark, (start, end)) in enumerate(zip(marks, offsets)):
            if mark != OUTSIDE:
                score, piece = judged[place][1], pieces[place]
                said = {"entity": mark, "score": score, "index": place + 1, "word": piece, "start": start, "end": end}
                made.append(said)
    else:
        for kind, first, behind in groups(marks, scheme):
            scores = [score for _, score, _, _ in judged[first:behind]]
            made.append(
                {
                    "entity_group": kind,
                    "score": sum(scores) / len(scores),
                    "word": tokenizer.convert_tokens_to_string(pieces[first:behind]),
                    "start": offsets[first][0],
                    "end": offsets[behind - 1][1],
                }
            )
    made.tags = [marks[token] if token is not None else OUTSIDE for token in speakers(words, offsets)]
    made.spans = [(kind, words[first][0], words[last - 1][1]) for kind, first, last in groups(made.tags, scheme)]
    return made


def draw(row: Row, prediction: Any, truth: Truth, scheme: Scheme) -> Picture:
    """The text with predicted entities marked; "truth" marks what was missed, "wrong" what is not there."""
    text, words = text_and_words(row, None)
    said = set(prediction.spans)
    known = row.get("tags") is not None or row.get("spans") is not None
    true = said
    if known:
        tags, given = truth(row)
        found = groups(tags, scheme) if tags is not None else []
        true = {(kind, words[first][0], words[last - 1][1]) for kind, first, last in found} | set(given)
    marks = sorted((span[1], span[2], span[0], _mark(span, said, true)) for span in said | true)
    shown: list[tuple[str, str]] = []
    at = 0
    for start, end, kind, mark in marks:
        shown += [(text[at:start], ""), (f"{text[max(at, start) : end]} [{kind}]", mark)]
        at = max(at, end)
    shown.append((text[at:], ""))
    missed = len(said ^ true)
    caption = ", ".join(f"{text[start:end]}: {kind}" for kind, start, end in sorted(said, key=lambda span: span[1]))
    return Picture(
        (caption or "no entities")[:300],
        missed / max(1, len(said | true)) if known else 0.0,
        text=[pair for pair in shown if pair[0]],
    )


def _mark(span: Entity, said: set[Entity], true: set[Entity]) -> str:
    if span in said and span in true:
        return "right"
    return "wrong" if span in said else "truth"


__all__ = [
    "Judged",
    "TagPrediction",
    "Truth",
    "continuing",
    "draw",
    "learn_names",
    "read_tokens",
    "sequences",
    "text_and_words",
    "true_spans",
    "true_tags",
]
