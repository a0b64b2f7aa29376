"""Entities in sequences of tags: schemes, how they are recognised, and the entity-level metric.

A tag is `O` (outside), a chunk letter and a type (`B-PER`, `PER_b`, `I`), or, in the scheme "plain", a type alone.
`entities` reads leniently, as conlleval (Tjong Kim Sang and De Meulder 2003) and seqeval's default mode do: every tag
belongs to some entity, whatever stands before it. `strict_entities` reads as seqeval's strict mode.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from typing_extensions import override

from topwork import DataError, Json, Metric, Row, UsageError
from topwork_tasks._classification import calibration

Scheme = Literal["IOB1", "IOB2", "IOBES", "plain"]
OUTSIDE = "O"
#: type of tags that are a chunk letter alone, as seqeval writes it
UNTYPED = "_"
#: (type, first, behind the last): indices of tags, or characters
Entity = tuple[str, int, int]
#: chunk letter and type
_Tag = tuple[str, str]

#: chunk letters as they are written -> as they are read: BILOU and BMEWO name last, middle and single ones otherwise
_LETTERS = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I", "W": "S"}
_SEPARATOR = r"[-_:/.|+ ]"
_BEFORE = re.compile(rf"([BIESLUMW]){_SEPARATOR}+(.+)", re.IGNORECASE | re.DOTALL)
_BEHIND = re.compile(rf"(.+?){_SEPARATOR}+([BIESLUMW])", re.IGNORECASE | re.DOTALL)
_PARTS = re.compile(r"[\W_]+")
#: chunk letters as words -> the letter
_SPELLED = {
    **dict.fromkeys(("B", "BEG", "BEGIN", "BEGINNING", "START"), "B"),
    **dict.fromkeys(("I", "IN", "INSIDE", "INTERMEDIATE", "INNER", "CONT", "CONTINUE"), "I"),
}
_HINT = "set the option `scheme`: IOB1, IOB2, IOBES, or plain for tags without chunk letters"


# ---------------------------------------------------------------- tags


def is_outside(tag: str, scheme: Scheme | None = None) -> bool:
    """Return whether a tag is that of words outside all entities; in a chunk scheme it may be in lower case."""
    return tag == OUTSIDE or (tag == "o" and scheme != "plain")


def split_tag(tag: str) -> _Tag:
    """Split a tag into its chunk letter (one of B, I, E, S, or O) and its type.

    The letter stands before or behind the type, with any separator and in any case, or alone. A tag without a chunk
    letter counts as inside.

    Example:
        >>> split_tag("B-PER"), split_tag("LOC_e"), split_tag("I"), split_tag("NOUN")
        (('B', 'PER'), ('E', 'LOC'), ('I', '_'), ('I', 'NOUN'))
    """
    if is_outside(tag):
        return OUTSIDE, ""
    if tag.upper() in _LETTERS:
        return _LETTERS[tag.upper()], UNTYPED
    if match := _BEFORE.fullmatch(tag):
        return _LETTERS[match[1].upper()], match[2]
    if match := _BEHIND.fullmatch(tag):
        return _LETTERS[match[2].upper()], match[1]
    return "I", tag


def has_chunk_letter(tag: str) -> bool:
    """Return whether a tag carries a chunk letter, alone or with a type."""
    return bool(tag.upper() in _LETTERS or _BEFORE.fullmatch(tag) or _BEHIND.fullmatch(tag))


def _written_letter(tag: str) -> str:
    """Return the chunk letter of a tag as it is written, in upper case."""
    if match := _BEFORE.fullmatch(tag):
        return match[1].upper()
    match = _BEHIND.fullmatch(tag)
    return match[2].upper() if match else tag.upper()


def detect_scheme(names: Iterable[str], sequences: Iterable[Sequence[str]]) -> Scheme:
    """Return the scheme that tags are written in.

    Args:
        names: all tags.
        sequences: the tags of rows, to tell IOB1 from IOB2: in IOB2 every entity starts with B, in IOB1 only one that
            follows another of its type at once.

    Raises:
        DataError: some tags have a chunk letter and others not, letters stand without a separator, or the sequences
            fit neither scheme.
    """
    inside = [name for name in names if not is_outside(name)]
    marked = [name for name in inside if has_chunk_letter(name)]
    if "B" not in map(_written_letter, marked):  # M and W are chunk letters beside B only
        marked = [name for name in marked if _written_letter(name) not in "MW"]
    if not marked:
        _refuse_joined(inside)
        _refuse_spelled(inside)
        return "plain"
    if len(marked) < len(inside):
        odd = next(name for name in inside if name not in marked)
        raise DataError(
            f"some tags have a prefix or another chunk letter ({marked[0]!r}) and others none ({odd!r})",
            column="tags",
            hint=_HINT,
        )
    if any(split_tag(name)[0] in "ES" for name in marked):
        return "IOBES"
    return _detect_iob(sequences)


def _refuse_joined(inside: Sequence[str]) -> None:
    """Refuse tags such as BPER and IPER, whose chunk letters stand without a separator."""
    for letter_of, type_of in ((0, slice(1, None)), (-1, slice(None, -1))):
        if not inside or any(len(tag) < 2 or tag[letter_of].upper() not in _LETTERS for tag in inside):
            continue
        letters: dict[str, set[str]] = {}
        for tag in inside:
            letters.setdefault(tag[type_of], set()).add(tag[letter_of].upper())
        repeated = next((kind for kind, kinds in letters.items() if {"B", "I"} <= kinds), None)
        if repeated is not None:
            raise DataError(
                f"the tags look like a chunk scheme without a separator: B and I of the type {repeated!r}",
                column="tags",
                hint=f"write tags such as B-{repeated}, or {_HINT}",
            )


def _refuse_spelled(inside: Sequence[str]) -> None:
    """Refuse tags whose chunk letters are spelled out, in brackets or full width: BEGIN-PER, <B-PER>."""
    letters: dict[str, dict[str, str]] = {}
    for tag in inside:
        parts = _PARTS.split(unicodedata.normalize("NFKC", tag).upper())
        parts = [part for part in parts if part]
        for position in {0, len(parts) - 1} if parts else ():
            if parts[position] in _SPELLED:
                kind = "-".join(parts[:position] + parts[position + 1 :])
                letters.setdefault(kind, {}).setdefault(_SPELLED[parts[position]], tag)
    for kind, spelled in letters.items():
        if {"B", "I"} <= set(spelled):
            raise DataError(
                f"the tags {spelled['B']!r} and {spelled['I']!r} look like a chunk scheme that is spelled otherwise",
                column="tags",
                hint=f"write {'-'.join(filter(None, ['B', kind]))}, {'-'.join(filter(None, ['I', kind]))} and O, "
                f"with `label_names: {{written: tag}}` if the data are to stay; or {_HINT}",
            )


def _detect_iob(sequences: Iterable[Sequence[str]]) -> Scheme:
    evidence: dict[str, str] = {}
    for tags in sequences:
        before, kind_before = OUTSIDE, ""
        for tag in tags:
            letter, kind = split_tag(tag)
            follows = before != OUTSIDE and kind == kind_before
            if letter == "I" and not follows:
                evidence.setdefault("IOB1", f"`{tag}` at the beginning of an entity")
            if letter == "B" and not follows:
                evidence.setdefault("IOB2", f"`{tag}` at the beginning of an entity that follows no other of its type")
            before, kind_before = letter, kind
    if len(evidence) == 2:
        raise DataError(
            f"the tags are neither plainly IOB1 nor IOB2: there are {evidence['IOB1']} and {evidence['IOB2']}",
            column="tags",
            hint=_HINT,
        )
    return "IOB1" if "IOB1" in evidence else "IOB2"


def continuing_tags(names: Sequence[str], scheme: Scheme) -> list[int]:
    """Return for each tag the index of the one that continues it: I of the same type for B, where there is one."""
    if scheme == "plain":
        return list(range(len(names)))
    inside = {split_tag(name)[1]: index for index, name in enumerate(names) if split_tag(name)[0] == "I"}
    result = []
    for index, name in enumerate(names):
        letter, kind = split_tag(name)
        result.append(inside.get(kind, index) if letter == "B" else index)
    return result


# ---------------------------------------------------------------- entities


def entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Return the entities of a sequence of tags, in order; positions are those of the tags.

    An entity starts at B and S, after E and S, after O, and where the type changes. In the scheme "plain" every tag but
    O is an entity by itself, since two neighbours of one type cannot be told from one entity.

    Example:
        >>> entities(["B-PER", "I-PER", "O", "B-LOC"], "IOB2")
        [('PER', 0, 2), ('LOC', 3, 4)]
    """
    if scheme == "plain":
        return [(tag, index, index + 1) for index, tag in enumerate(tags) if tag != OUTSIDE]
    result: list[Entity] = []
    before, kind_before, start = OUTSIDE, "", 0
    for index, tag in enumerate([*tags, OUTSIDE]):
        letter, kind = split_tag(tag)
        begins = letter != OUTSIDE and (letter in "BS" or before in (OUTSIDE, "E", "S") or kind != kind_before)
        if before != OUTSIDE and (begins or letter == OUTSIDE):
            result.append((kind_before, start, index))
        if begins:
            start = index
        before, kind_before = letter, kind
    return result


def groups(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Return neighbouring tags that a reader takes for one entity: `entities`; of plain tags, runs of the same tag."""
    if scheme != "plain":
        return entities(tags, scheme)
    result: list[Entity] = []
    for index, tag in enumerate(tags):
        if tag == OUTSIDE:
            continue
        if result and result[-1][0] == tag and result[-1][2] == index:
            result[-1] = (tag, result[-1][1], index + 1)
        else:
            result.append((tag, index, index + 1))
    return result


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Return the entities that are written as their scheme demands, as seqeval's strict mode reads them.

    An entity whose tags break the rules of IOB1, IOB2 or IOBES is none at all. Plain tags have no rules to break.
    """
    if scheme == "plain":
        return entities(tags, scheme)
    read: list[_Tag] = [split_tag(tag) for tag in [*tags, OUTSIDE]]
    result: list[Entity] = []
    index = 0
    while index < len(tags):
        before = read[index - 1] if index else (OUTSIDE, "")
        behind = index + 1
        if _opens(scheme, before, read[index]):
            while _continues(scheme, read[behind - 1], read[behind]):
                behind += 1
            if _closes(scheme, read[behind - 1], read[behind]):
                result.append((read[index][1], index, behind))
        index = behind
    return result


def _opens(scheme: Scheme, before: _Tag, tag: _Tag) -> bool:
    """Return whether an entity begins here. In IOB1 it begins with I, and with B only behind another of its type."""
    if scheme == "IOB2":
        return tag[0] == "B"
    if scheme == "IOBES":
        return tag[0] in ("B", "S")
    if tag[0] == "B":
        return before[0] in ("B", "I") and before[1] == tag[1]
    return tag[0] == "I" and (before[0] in (OUTSIDE, "B") or (before[0] == "I" and before[1] != tag[1]))


def _continues(scheme: Scheme, before: _Tag, tag: _Tag) -> bool:
    inside = ("I", "E") if scheme == "IOBES" else ("I",)
    return tag[0] in inside and before[0] in ("B", "I") and before[1] == tag[1]


def _closes(scheme: Scheme, last: _Tag, after: _Tag) -> bool:
    """Return whether an entity that ends here is whole. In IOB1 a B behind another type is a fault."""
    if scheme == "IOBES":
        return last[0] in ("E", "S")
    return scheme == "IOB2" or not (last[0] == "B" and after[0] == "B" and last[1] != after[1])


def span_tags(words: Sequence[tuple[int, int]], spans: Sequence[Entity]) -> tuple[list[str], list[Entity]]:
    """Return the tags in IOB2 of words (start and end characters), and the spans that tags cannot express.

    Tags cannot express a span that does not begin and end where words do, or that overlaps one before it.
    """
    starts = {start: index for index, (start, _) in enumerate(words)}
    ends = {end: index for index, (_, end) in enumerate(words)}
    tags, inexpressible = [OUTSIDE] * len(words), []
    for kind, start, end in spans:
        first, last = starts.get(start), ends.get(end)
        if first is None or last is None or any(tag != OUTSIDE for tag in tags[first : last + 1]):
            inexpressible.append((kind, start, end))
            continue
        tags[first : last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
    return tags, inexpressible


# ---------------------------------------------------------------- metric


class EntityMetric(Metric):
    """Precision, recall and F1 of whole entities (type and borders must agree), micro-averaged over all rows.

    As seqeval gives them; the same by type as a table; accuracy and calibration error of single tags (spans of
    characters have none).
    `inexpressible_spans` counts true spans that no tags of words can express, where there are any: they are missed.

    Args:
        truth: returns the true entities of a row, and its tags or None.
        scheme: of the tags.
        read: makes entities of tags; None: `entities`.
    """

    keys = ("f1", "precision", "recall", "accuracy", "calibration_error")
    primary = "f1"

    def __init__(
        self, truth: Any, scheme: Scheme, read: Callable[[Sequence[str], Scheme], list[Entity]] | None = None
    ) -> None:
        self.truth, self.scheme, self.read = truth, scheme, read or entities
        self.right: Counter[str] = Counter()
        self.predicted: Counter[str] = Counter()
        self.true: Counter[str] = Counter()
        self.tags = self.tags_right = self.rows = self.inexpressible = 0
        self.bins = calibration.new_bins()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "truth": None}  # processes exchange counts alone

    @override
    def update(self, row: Row, prediction: Any) -> None:
        tags, spans = self.truth(row)
        if tags is not None:
            true, predicted = self.read(tags, self.scheme), self.read(prediction.tags, self.scheme)
            if len(tags) != len(prediction.tags):
                raise UsageError(f"{len(tags)} true tags and {len(prediction.tags)} predicted ones")
            self.tags += len(tags)
            right = [tag == predicted_tag for tag, predicted_tag in zip(tags, prediction.tags)]
            self.tags_right += sum(right)
            for score, is_right in zip(prediction.scores, right):
                calibration.add(self.bins, score, is_right)
        else:
            true, predicted = spans, prediction.spans
            if prediction.words:
                self.inexpressible += len(span_tags(prediction.words, spans)[1])
        self.rows += 1
        self.true.update(kind for kind, _, _ in set(true))
        self.predicted.update(kind for kind, _, _ in set(predicted))
        self.right.update(kind for kind, _, _ in set(true) & set(predicted))

    @override
    def merge(self, metric: EntityMetric) -> None:
        for name in ("right", "predicted", "true"):
            getattr(self, name).update(getattr(metric, name))
        for name in ("tags", "tags_right", "rows", "inexpressible"):
            setattr(self, name, getattr(self, name) + getattr(metric, name))
        self.bins = calibration.merged(self.bins, metric.bins)

    @override
    def result(self) -> dict[str, Json]:
        if not self.rows:
            return dict.fromkeys(self.keys, math.nan)
        whole = _scores(self.right.total(), self.predicted.total(), self.true.total())
        table = [
            {
                "type": kind,
                **_scores(self.right[kind], self.predicted[kind], self.true[kind]),
                "support": self.true[kind],
            }
            for kind in sorted(set(self.true) | set(self.predicted))
        ]
        noted = {"inexpressible_spans": self.inexpressible} if self.inexpressible else {}
        accuracy = self.tags_right / self.tags if self.tags else math.nan
        error = calibration.calibration_error(self.bins)
        return {**whole, "accuracy": accuracy, "calibration_error": error, **noted, "per_type": table}


def _scores(right: int, predicted: int, true: int) -> dict[str, float]:
    """Return F1, precision and recall; 0 without a denominator, as in seqeval."""
    precision = right / predicted if predicted else 0.0
    recall = right / true if true else 0.0
    f1 = 2 * right / (predicted + true) if predicted + true else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}
