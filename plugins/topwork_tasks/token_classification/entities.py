"""Entities in sequences of tags: reading schemes, telling which scheme is meant, and the entity-level metric.

A tag is `O` (outside), a prefix and a type (`B-PER`), or, in the scheme "plain", a type alone. Reading is lenient as in
conlleval (Tjong Kim Sang and De Meulder 2003) and seqeval's default mode: every tag belongs to some entity, however the
prefixes before it were.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from topwork import DataError, Json, Metric, Row, UsageError

Scheme = Literal["IOB1", "IOB2", "IOBES", "plain"]
OUTSIDE = "O"
#: (type, first, behind the last): positions of tags, or characters
Entity = tuple[str, int, int]

_PREFIXES = "BIES"
_SAME = {"L": "E", "U": "S"}  # BILOU calls the last and the only one so


def split_tag(tag: str) -> tuple[str, str]:
    """A tag's prefix (one of B, I, E, S, or O) and type. A tag without a known prefix counts as inside."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, kind = tag.partition("-")
    prefix = _SAME.get(prefix, prefix)
    if dash and len(prefix) == 1 and prefix in _PREFIXES:
        return prefix, kind
    return "I", tag


def entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Entities of a sequence of tags, in order; positions are those of the tags.

    A new one starts at B and S, after E and S, after O, and where the type changes. In the scheme "plain" every tag
    but O is an entity by itself, since two neighbours of one type cannot be told from one entity.
    """
    if scheme == "plain":
        return [(tag, place, place + 1) for place, tag in enumerate(tags) if tag != OUTSIDE]
    found: list[Entity] = []
    before, kind_before, start = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        begins = prefix != OUTSIDE and (prefix in "BS" or before in (OUTSIDE, "E", "S") or kind != kind_before)
        if before != OUTSIDE and (begins or prefix == OUTSIDE):
            found.append((kind_before, start, place))
        if begins:
            start = place
        before, kind_before = prefix, kind
    return found


def groups(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Neighbouring tokens that a reader takes for one entity: as `entities`; of plain tags, runs of the same tag."""
    if scheme != "plain":
        return entities(tags, scheme)
    found: list[Entity] = []
    for place, tag in enumerate(tags):
        if tag == OUTSIDE:
            continue
        if found and found[-1][0] == tag and found[-1][2] == place:
            found[-1] = (tag, found[-1][1], place + 1)
        else:
            found.append((tag, place, place + 1))
    return found


def detect(names: Iterable[str], sequences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme that tags are written in.

    Args:
        names: all tags.
        sequences: the tags of rows, to tell IOB1 from IOB2: in IOB2 every entity starts with B, in IOB1 only one that
            follows another of its type at once.

    Raises:
        DataError: some tags have a prefix and others not, or the sequences fit neither scheme.
    """
    inside = [name for name in names if name != OUTSIDE]
    marked = [name for name in inside if split_tag(name)[1] != name]
    if not marked:
        return "plain"
    if len(marked) < len(inside):
        odd = next(name for name in inside if name not in marked)
        raise DataError(
            f"some tags have a prefix ({marked[0]}) and others none ({odd})",
            column="tags",
            hint="say which `scheme` they are written in: IOB1, IOB2, IOBES or plain",
        )
    if any(split_tag(name)[0] in "ES" for name in marked):
        return "IOBES"
    return _iob(sequences)


def _iob(sequences: Iterable[Sequence[str]]) -> Scheme:
    first: dict[str, str] = {}
    for tags in sequences:
        before, kind_before = OUTSIDE, ""
        for tag in tags:
            prefix, kind = split_tag(tag)
            follows = before != OUTSIDE and kind == kind_before
            if prefix == "I" and not follows:
                first.setdefault("IOB1", f"`{tag}` at the beginning of an entity")
            if prefix == "B" and not follows:
                first.setdefault("IOB2", f"`{tag}` at the beginning of an entity that follows no other of its type")
            before, kind_before = prefix, kind
    if len(first) == 2:
        raise DataError(
            f"the tags are neither plainly IOB1 nor IOB2: there are {first['IOB1']} and {first['IOB2']}",
            column="tags",
            hint="say which `scheme` they are written in",
        )
    return "IOB1" if "IOB1" in first else "IOB2"


def span_tags(words: Sequence[tuple[int, int]], spans: Sequence[Entity]) -> list[str]:
    """Tags in IOB2 for words (start and end characters) from spans of characters; a span takes every word that it
    touches, and of two spans the first has the word."""
    tags = [OUTSIDE] * len(words)
    for kind, start, end in spans:
        inside = [place for place, (begin, stop) in enumerate(words) if begin < end and stop > start]
        for count, place in enumerate(place for place in inside if tags[place] == OUTSIDE):
            tags[place] = f"{'I' if count else 'B'}-{kind}"
    return tags


class EntityMetric(Metric):
    """Precision, recall and F1 of whole entities (type and borders must agree), micro-averaged over all rows, as
    seqeval gives them; the same by type as a table; and the accuracy of single tags (characters' spans have none).

    Args:
        truth: answers the true entities of a row, and its tags or None.
        scheme: of the tags.
        read: makes entities of tags; None: leniently, see `entities`.
    """

    keys = ("f1", "precision", "recall", "accuracy")
    primary = "f1"

    def __init__(
        self, truth: Any, scheme: Scheme, read: Callable[[Sequence[str], Scheme], list[Entity]] | None = None
    ) -> None:
        self.truth, self.scheme, self.read = truth, scheme, read or entities
        self.right: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self.true: Counter[str] = Counter()
        self.tags = self.tags_right = self.rows = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "truth": None}  # processes exchange counts; how truth is read stays at home

    def update(self, row: Row, prediction: Any) -> None:
        tags, spans = self.truth(row)
        if tags is not None:
            true, said = self.read(tags, self.scheme), self.read(prediction.tags, self.scheme)
            if len(tags) != len(prediction.tags):
                raise UsageError(f"{len(tags)} true tags and {len(prediction.tags)} predicted ones")
            self.tags += len(tags)
            self.tags_right += sum(one == other for one, other in zip(tags, prediction.tags))
        else:
            true, said = spans, prediction.spans
        self.rows += 1
        self.true.update(kind for kind, _, _ in set(true))
        self.said.update(kind for kind, _, _ in set(said))
        self.right.update(kind for kind, _, _ in set(true) & set(said))

    def merge(self, other: EntityMetric) -> None:
        for name in ("right", "said", "true"):
            getattr(self, name).update(getattr(other, name))
        self.tags += other.tags
        self.tags_right += other.tags_right
        self.rows += other.rows

    def result(self) -> dict[str, Json]:
        if not self.rows:
            return dict.fromkeys(self.keys, math.nan)
        whole = _scores(self.right.total(), self.said.total(), self.true.total())
        table = [
            {"type": kind, **_scores(self.right[kind], self.said[kind], self.true[kind]), "support": self.true[kind]}
            for kind in sorted(set(self.true) | set(self.said))
        ]
        return {**whole, "accuracy": self.tags_right / self.tags if self.tags else math.nan, "per_type": table}


def _scores(right: int, said: int, true: int) -> dict[str, float]:
    """What has no denominator is 0, as seqeval has it."""
    precision = right / said if said else 0.0
    recall = right / true if true else 0.0
    return {"f1": 2 * right / (said + true) if said + true else 0.0, "precision": precision, "recall": recall}
