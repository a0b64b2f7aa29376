"""Entities that are written as their scheme demands, as seqeval's strict mode reads them: an entity whose tags break
the rules of IOB1, IOB2 or IOBES is none at all, where the lenient reading (`_entities`) makes the best of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from topwork_tasks.token_classification.entities import OUTSIDE, Entity, Scheme, entities, split_tag

#: prefix and type
_Tag = tuple[str, str]


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Entities of a sequence of tags, in order; positions are those of the tags. Plain tags have no rules to break."""
    if scheme == "plain":
        return entities(tags, scheme)
    read: list[_Tag] = [split_tag(tag) for tag in [*tags, OUTSIDE]]
    found: list[Entity] = []
    place = 0
    while place < len(tags):
        before = read[place - 1] if place else (OUTSIDE, "")
        behind = place + 1
        if _opens(scheme, before, read[place]):
            while _goes_on(scheme, read[behind - 1], read[behind]):
                behind += 1
            if _closes(scheme, read[behind - 1], read[behind]):
                found.append((read[place][1], place, behind))
        place = behind
    return found


def _opens(scheme: Scheme, before: _Tag, tag: _Tag) -> bool:
    """Whether an entity begins here. In IOB1 it begins with I, and with B only behind another of its type."""
    if scheme == "IOB2":
        return tag[0] == "B"
    if scheme == "IOBES":
        return tag[0] in ("B", "S")
    if tag[0] == "B":
        return before[0] in ("B", "I") and before[1] == tag[1]
    return tag[0] == "I" and (before[0] in (OUTSIDE, "B") or (before[0] == "I" and before[1] != tag[1]))


def _goes_on(scheme: Scheme, before: _Tag, tag: _Tag) -> bool:
    inside = ("I", "E") if scheme == "IOBES" else ("I",)
    return tag[0] in inside and before[0] in ("B", "I") and before[1] == tag[1]


def _closes(scheme: Scheme, last: _Tag, after: _Tag) -> bool:
    """Whether what ends here is whole. In IOB1 a B must follow one of its type: behind another type it is a fault."""
    if scheme == "IOBES":
        return last[0] in ("E", "S")
    return scheme == "IOB2" or not (last[0] == "B" and after[0] == "B" and last[1] != after[1])
