"""Labelled rows of any kind as targets of edge probes: one or two spans with one or several labels.

Entry point: `targets_of`. The kinds of labels (`KINDS`) cover the eight tasks of Tenney et al. 2019: a label for each
word (parts of speech), for a span (constituents, entities), for two spans (dependencies, roles, relations,
coreference), several labels for two spans (proto-roles); and, for images and sound, labels of whole rows, regions and
stretches of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topwork import DataError, Row, unknown
from topwork_analyses.positions.heads import heads_of
from topwork_analyses.positions.readers import text_of_row
from topwork_analyses.positions.spans import Span
from topwork_analyses.positions.tokens import Characters, words_in


@dataclass(frozen=True)
class Target:
    """Labels of one span or of a pair of spans.

    Args:
        spans: one or two.
        labels: one, or several where several may hold.
    """

    spans: tuple[Span, ...]
    labels: tuple[str, ...]

    @property
    def type(self) -> str | None:
        """The word that a control task labels: what stands in the first span."""
        return self.spans[0].name


def targets_of(row: Row, kind: str, index: int | None = None) -> list[Target]:
    """Return the targets of a row.

    Args:
        row: with `text` or `words` where it is text.
        kind: one of `KINDS`.
        index: of the row, for errors.

    Raises:
        UsageError: the kind is not known.
        DataError: the row does not hold what the kind needs.
    """
    if kind not in KINDS:
        raise unknown("kind of labels", kind, KINDS)
    for column in KINDS[kind].columns:
        if row.get(column) is None:
            hint = f"`{kind}` needs {', '.join(KINDS[kind].columns)}"
            raise DataError("is missing or empty", row=index, column=column, hint=hint)
    return KINDS[kind].read(row, index)


def _tags(row: Row, index: int | None) -> list[Target]:
    words = _word_spans(row, index)
    tags = _as_many(row, "tags", words, index)
    return [Target((word,), (str(tag),)) for word, tag in zip(words, tags)]


def _entities(row: Row, index: int | None) -> list[Target]:
    text = text_of_row(row)
    if text is None:
        raise DataError("a row with spans needs a text", row=index, column="text")
    targets = []
    for entry in row["spans"]:
        try:
            start, end, label = int(entry["start"]), int(entry["end"]), entry["label"]
        except (KeyError, TypeError, ValueError) as error:
            hint = "write {start, end, label}, in characters"
            raise DataError(f"{entry!r} is no span", row=index, column="spans", hint=hint) from error
        if not 0 <= start < end <= len(text):
            raise DataError(f"characters {start} to {end} of {len(text)}", row=index, column="spans")
        targets.append(Target((Span("characters", (start, end), text[start:end]),), _labels(label, index)))
    return targets


def _relations(row: Row, index: int | None) -> list[Target]:
    words = _word_spans(row, index)
    heads = heads_of(row, len(words), index)
    relations = _as_many(row, "relations", words, index)
    return [
        Target((word, words[head]), (str(relation),))
        for word, head, relation in zip(words, heads, relations)
        if head >= 0
    ]


def _targets(row: Row, index: int | None) -> list[Target]:
    """Read rows as jiant writes them: {"text", "targets": [{"span1": [first word, word behind the last], "label"}]}."""
    words = None
    targets = []
    for entry in row["targets"]:
        if not isinstance(entry, Mapping) or "label" not in entry:
            hint = "write {span1, span2, label}, span2 where there are two"
            raise DataError(f"{entry!r} is no target", row=index, column="targets", hint=hint)
        spans = []
        for number in ("1", "2"):
            if entry.get(f"span{number}") is not None:
                words = _word_spans(row, index) if words is None else words
                spans.append(_between(words, entry[f"span{number}"], row, index))
            elif (region := entry.get(f"region{number}")) is not None:
                spans.append(Span("region", _numbers(region, 4, index)))
            elif (seconds := entry.get(f"seconds{number}")) is not None:
                spans.append(Span("seconds", _numbers(seconds, 2, index)))
        if not spans:
            hint = "write span1 (words), region1 (shares of the image) or seconds1"
            raise DataError("a target without a span", row=index, column="targets", hint=hint)
        targets.append(Target(tuple(spans), _labels(entry["label"], index)))
    return targets


def _whole(row: Row, index: int | None) -> list[Target]:
    return [Target((Span("whole"),), _labels(row["label"], index))]


def _word_spans(row: Row, index: int | None) -> list[Span]:
    text = text_of_row(row)
    words = row.get("words")
    if text is None:
        raise DataError("labels of words need `words` or `text`", row=index, column="words")
    names = text.split() if words is None else [str(word) for word in words]
    return [Span("characters", span, name) for name, span in zip(names, words_in(text, names, index))]


def _between(words: Sequence[Span], bounds: Any, row: Row, index: int | None) -> Span:
    first, last = (int(bound) for bound in _numbers(bounds, 2, index))
    if not 0 <= first < last <= len(words):
        hint = "name the first word, from 0, and the one behind the last"
        raise DataError(f"words {first} to {last} of {len(words)}", row=index, column="targets", hint=hint)
    characters: Characters = (int(words[first].bounds[0]), int(words[last - 1].bounds[1]))
    return Span("characters", characters, (text_of_row(row) or "")[characters[0] : characters[1]])


def _as_many(row: Row, column: str, words: Sequence[Span], index: int | None) -> Sequence[Any]:
    values = row[column]
    if not isinstance(values, list | tuple) or len(values) != len(words):
        count = len(values) if isinstance(values, list | tuple) else "no list"
        raise DataError(f"{count} for {len(words)} words", row=index, column=column, hint="give one for each word")
    return values


def _numbers(values: Any, count: int, index: int | None) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count:
        raise DataError(f"{values!r} are not {count} numbers", row=index, column="targets")
    return numbers


def _labels(value: Any, index: int | None) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if any(entry is None or isinstance(entry, float) for entry in values):
        raise DataError(f"{value!r} is no label", row=index, column="label", hint="give the name of a label")
    return tuple(str(entry) for entry in values)


@dataclass(frozen=True)
class _Kind:
    columns: tuple[str, ...]
    read: Callable[[Row, int | None], list[Target]]


#: kinds of labels, by the column that holds them
KINDS: dict[str, _Kind] = {
    "tags": _Kind(("tags",), _tags),
    "spans": _Kind(("spans",), _entities),
    "relations": _Kind(("relations", "heads"), _relations),
    "targets": _Kind(("targets",), _targets),
    "label": _Kind(("label",), _whole),
}


def kinds_in(row: Row) -> list[str]:
    """Return the kinds of labels that a row has."""
    return [name for name, kind in KINDS.items() if all(row.get(column) is not None for column in kind.columns)]
