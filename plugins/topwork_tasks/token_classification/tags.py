"""Rows of token-classification: their words and true tags, names of tags, targets of tokens.

Predictions are read in `predictions`, entities in `entities`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from topwork import Base, DataError, Row, TopworkError
from topwork_tasks._classification import labels
from topwork_tasks._text.inputs import text_of
from topwork_tasks._text.windows import tokens_of_words, words_of_tokens
from topwork_tasks._text.words import Span, find_signs, find_words, include_marks, join_words, trim_span
from topwork_tasks.token_classification.entities import OUTSIDE, Entity, is_outside, span_tags, split_tag

#: units that are tagged in rows with spans
SpanWords = Literal["words", "signs"]


class RowReader:
    """Reads the words of rows and their true tags.

    Args:
        names: names of all tags, in the order of the model's outputs.
        declared: what the data's integers stand for, or None.
        span_words: what is tagged in rows with spans: words, or every sign.
    """

    def __init__(self, names: Sequence[str], declared: labels.Declared, span_words: SpanWords = "words") -> None:
        self.names, self.declared, self.span_words = names, declared, span_words
        self.outside = next((name for name in names if is_outside(name)), OUTSIDE)

    def words(self, row: Row, index: int | None) -> tuple[str, list[Span]]:
        """Return the text of a row, and where its words stand in it."""
        return text_and_words(row, index, self.span_words)

    def tags(self, row: Row, index: int | None, words: Sequence[Span]) -> list[int]:
        """Return the tag of each word, as an index into the names. Spans that tags cannot express are left out.

        Raises:
            DataError: no targets, another number of tags than words, an unknown tag.
        """
        if row.get("words") is None:
            marks: Sequence[Any] = span_tags(words, true_spans(row, index))[0]
            return [labels.label_index(mark, self.names, None, index, "spans") for mark in marks]
        named = self.declared if isinstance(self.declared, Mapping) else self.names
        marks = _tags_of_words(row, index, words, list(named))
        return [labels.label_index(mark, self.names, self.declared, index, "tags") for mark in marks]

    def check_spans(self, row: Row, index: int | None, words: Sequence[Span]) -> None:
        """Refuse a row with spans that tags of its words cannot express: they could not be learned.

        Raises:
            DataError: with the first of these spans.
        """
        if row.get("words") is not None:
            return
        _, inexpressible = span_tags(words, true_spans(row, index))
        if inexpressible:
            shown = _shown(row["text"], inexpressible[0])
            more = f" (and {len(inexpressible) - 1} more)" if len(inexpressible) > 1 else ""
            hint = "correct the row or leave it out"
            if self.span_words == "words":
                hint = f"set `span_words: signs` if spans end inside words, or {hint}"
            raise DataError(
                f"the span {shown}{more} overlaps another one, or does not begin and end where words do",
                row=index,
                column="spans",
                hint=hint,
            )

    def __call__(self, row: Row) -> tuple[list[str] | None, list[Entity]]:
        """Return the truth of a row: the tags of its words or None, and the spans of its text."""
        _, words = self.words(row, None)
        tags = self.tags(row, None, words)  # refuses unknown labels, of spans too
        if row.get("words") is None:
            spans = true_spans(row, None)
            for kind, _, _ in spans:
                labels.label_index(f"B-{kind}", self.names, None, None, "spans")
            return None, spans
        return [self.names[tag] for tag in tags], []


def text_and_words(row: Row, index: int | None, span_words: SpanWords = "words") -> tuple[str, list[Span]]:
    """Return the text of a row, and where its words stand in it.

    Raises:
        DataError: neither a list of words nor a text.
    """
    words = row.get("words")
    if words is None:
        if row.get("text") is None:
            raise DataError("is missing", row=index, column="words", hint="give `words`, or `text`: `data.columns`")
        text = text_of(row, index, "text")
        return text, find_words(text) if span_words == "words" else find_signs(text)
    if isinstance(words, str) or not isinstance(words, Iterable) or not all(isinstance(word, str) for word in words):
        raise DataError("is no list of strings", row=index, column="words", hint="split the text, or use `text`")
    return join_words(list(words))


def check_marks(row: Row, words: Sequence[Span], span_words: SpanWords, option: labels.LabelNames = None) -> None:
    """Refuse a row whose tags or spans cannot be learned, whatever their names; a row without any is not refused.

    Raises:
        DataError: another number of tags than words, a tag that is none, a span that tags cannot express.
    """
    if row.get("words") is None and row.get("spans") is not None:
        RowReader((), None, span_words).check_spans(row, None, words)
    elif row.get("words") is not None and row.get("tags") is not None:
        _tags_of_words(row, None, words, list(labels.given_names(option)[1] or ()))


def _tags_of_words(row: Row, index: int | None, words: Sequence[Span], names: Sequence[str]) -> list[Any]:
    marks = _listed(row, "tags", index)
    if len(marks) != len(words):
        raise DataError(
            f"has {len(marks)} tags for {len(words)} words", row=index, column="tags", hint="correct the row"
        )
    for mark in marks:
        labels.as_label(mark, index, "tags", named=names)
    return marks


def true_spans(row: Row, index: int | None) -> list[Entity]:
    """Return the spans of a text: (label, start, end), each within the text, without white space at its ends.

    Marks that belong to the last letter are part of a span.
    """
    text = text_of(row, index, "text")
    spans = []
    for span in _listed(row, "spans", index):
        try:
            label, start, end = str(span["label"]), int(span["start"]), int(span["end"])
            if span["label"] is None:
                raise TypeError("no label")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{span!r} is no span", row=index, column="spans", hint="write {start, end, label}"
            ) from error
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"the span {start} to {end} does not lie in the text of {len(text)} characters",
                row=index,
                column="spans",
                hint="count characters from 0; `end` is the one behind the last",
            )
        start, end = trim_span(text, start, end)
        if start == end:
            raise DataError(
                f"the span {span['start']} to {span['end']} holds white space alone",
                row=index,
                column="spans",
                hint="correct the row or leave the span out",
            )
        spans.append((label, start, include_marks(text, end)))
    return sorted(spans, key=lambda span: (span[1], span[2]))


def _shown(text: str, span: Entity) -> str:
    kind, start, end = span
    words = text[start:end] if end - start <= 40 else text[start : start + 37] + "..."
    return f"{start} to {end} ({words!r}, {kind})"


def _listed(row: Row, column: str, index: int | None) -> list[Any]:
    value = row.get(column)
    if value is None or isinstance(value, str | dict) or not isinstance(value, Iterable):
        cause = "is no list" if value is not None else "is empty" if column in row else "is missing"
        hint = "map it in `data.columns`; an empty list for none"
        if column == "spans" and cause == "is missing":
            hint = "map it in `data.columns`; a file with a word a line is read with `format: conll`"
        raise DataError(cause, row=index, column=column, hint=hint)
    return list(value)


# ---------------------------------------------------------------- names of tags


def learn_tag_names(
    rows: Any, base: Base, auto: Sequence[str], option: labels.LabelNames, notes: list[str] | None = None
) -> tuple[list[str], labels.Declared]:
    """Return the names of all tags in the order of the model's outputs, and what the data's integers stand for.

    The checkpoint's trained task head wins, then the option, then what the data set declares, then what occurs: `O`
    first, the others sorted by type and chunk letter.
    """
    source = labels.declared_by(rows, "tags")
    given, _ = labels.given_names(option)
    integers = _integers(rows) if given and source is None else ()
    declared = labels.integer_names(integers, option, source, [] if notes is None else notes, "tags")
    trained = base.trained_labels(*auto)
    names = trained or given or (source and labels.source_names(source, "tags"))
    if names:
        return list(names), declared
    if rows is None:
        raise TopworkError(
            "the tags are not known",
            hint="give training rows, the option `label_names`, or a base with a trained task head",
        )
    occurring = labels.distinct_labels(_marks(rows), "tags")
    if any(row.get("words") is None for row in rows):
        occurring = list({OUTSIDE, *occurring})
    if len(occurring) < 2:
        raise DataError(f"has only the tags {sorted(occurring)}", column="tags", hint="give rows with two tags or more")
    return sorted(occurring, key=lambda name: (not is_outside(name), split_tag(name)[1], name)), None


def _marks(rows: Any) -> Iterator[tuple[int, Any]]:
    """Yield (index of the row, tag) of all tags, those of spans among them."""
    for index, row in enumerate(rows):
        if row.get("words") is None:
            for kind in sorted({kind for kind, _, _ in true_spans(row, index)}):
                yield from ((index, f"{letter}-{kind}") for letter in "BI")
        else:
            yield from ((index, mark) for mark in _listed(row, "tags", index))


def _integers(rows: Any) -> list[Any]:
    """Return the tags of all rows with words, as they are written; rows without any are refused later."""
    if rows is None or (hasattr(rows, "column_names") and "tags" not in (rows.column_names or ())):
        return []
    narrow = rows.select_columns(["tags"]) if hasattr(rows, "select_columns") else rows
    lists = (row.get("tags") for row in narrow)
    return [mark for marks in lists if isinstance(marks, list | tuple) for mark in marks]


def tag_sequences(rows: Any, reader: RowReader) -> Iterator[list[str]]:
    """Yield the tags of each row by name, for recognising the scheme; nothing without rows."""
    for index, row in enumerate(rows if rows is not None else ()):
        _, words = reader.words(row, index)
        yield [reader.names[tag] for tag in reader.tags(row, index, words)]


# ---------------------------------------------------------------- targets of tokens


def token_targets(
    wanted: Sequence[int], words: Sequence[Span], offsets: Sequence[Span], continuing: Sequence[int], all_tokens: bool
) -> tuple[list[int], list[int]]:
    """Return the target of each token (-100 where nothing is learned), and the words whose tags no token can carry.

    A word's first token carries its tag. A token that reaches over several words carries that of the first; the others
    are then read as its continuation.

    Args:
        wanted: tag of each word.
        words: characters of each word.
        offsets: characters of each token.
        continuing: for each tag the one that continues it.
        all_tokens: later tokens of a word learn the continuing tag.
    """
    targets = [-100] * len(offsets)
    if all_tokens:
        for token, word in enumerate(words_of_tokens(words, offsets)):
            if word is not None:
                targets[token] = continuing[wanted[word]]
    lost = []
    carried = -1
    for word, tokens in enumerate(tokens_of_words(words, offsets)):
        if not tokens:
            lost.append(word)
        elif tokens[0] > carried:
            targets[tokens[0]] = wanted[word]
            carried = tokens[-1]
        elif continuing[targets[tokens[0]]] != wanted[word]:
            lost.append(word)
    return targets, lost
