"""Texts as words with characters: where words stand, which token speaks for a word, and windows over long texts whose
overlap is divided, so that every token belongs to one window only."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from topwork import UsageError

#: letters, digits, or one sign: fine enough for most annotated spans to end where a word does
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
Span = tuple[int, int]


def find_words(text: str) -> list[Span]:
    """Where the words of a text stand: runs of letters, runs of digits, and single signs."""
    return [match.span() for match in _WORD.finditer(text)]


def join_words(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Words with a space between, as the Hub's pipeline joins them, and where each stands."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans


def speakers(words: Sequence[Span], tokens: Sequence[Span]) -> list[int | None]:
    """For each word the first token that covers some of it, or None where the tokenizer left the word out."""
    answer: list[int | None] = []
    token = 0
    for start, end in words:
        while token < len(tokens) and tokens[token][1] <= start:
            token += 1
        hit = token < len(tokens) and tokens[token][0] < end
        answer.append(token if hit else None)
    return answer


def word_of(words: Sequence[Span], tokens: Sequence[Span]) -> list[int | None]:
    """For each token the word that it begins in (or, when it begins before one, reaches into); None between words."""
    starts = [start for start, _ in words]
    answer: list[int | None] = []
    for start, end in tokens:
        place = bisect_right(starts, start) - 1
        if place >= 0 and start < words[place][1]:
            answer.append(place)
        elif place + 1 < len(words) and words[place + 1][0] < end:
            answer.append(place + 1)
        else:
            answer.append(None)
    return answer


@dataclass(frozen=True)
class Piece:
    """One window over a text.

    Args:
        inputs: the tokenizer's outputs, by name.
        places: position in the window of each of its tokens that it owns (special tokens and tokens that a
            neighbouring window sees with more around them are left out).
        first: number, in the whole text, of the first token that it owns.
        offsets: (start, end) characters of those tokens.
    """

    inputs: dict[str, list[int]]
    places: list[int]
    first: int
    offsets: list[Span]


def pieces(tokenizer: Any, texts: Sequence[str], names: Sequence[str], length: int | None, stride: int) -> list[list]:
    """Windows of each text, in order; together they own each token once. A text without tokens has none.

    Args:
        names: outputs of the tokenizer to keep.
        length: tokens in a window, special ones included; None for no bound.
        stride: tokens that neighbouring windows share; in the middle of them ownership passes on.

    Raises:
        UsageError: the tokenizer does not know characters, or the stride leaves no room.
    """
    if not tokenizer.is_fast:
        raise UsageError("the tokenizer does not say which characters its tokens cover", hint="use its fast version")
    room = None if length is None else length - tokenizer.num_special_tokens_to_add(pair=False)
    if room is not None and not 0 <= stride < room:
        raise UsageError(
            f"`stride` is {stride}, a window has {room} tokens of text", hint=f"set it to {max(0, room // 4)}"
        )
    if not texts:
        return []
    bounds = {"truncation": True, "max_length": length, "stride": stride} if length is not None else {}
    encoded = tokenizer(
        list(texts),
        return_overflowing_tokens=length is not None,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        **bounds,
    )
    sources = encoded["overflow_to_sample_mapping"] if length is not None else list(range(len(texts)))
    found: list[list[Piece]] = [[] for _ in texts]
    for place, source in enumerate(sources):
        last = place + 1 == len(sources) or sources[place + 1] != source
        piece = _piece(encoded, place, names, len(found[source]), last, room, stride)
        if piece is not None:
            found[source].append(piece)
    return found


def _piece(
    encoded: Any, place: int, names: Sequence[str], number: int, last: bool, room: int | None, stride: int
) -> Piece | None:
    sides = encoded.sequence_ids(place)
    inside = [position for position, side in enumerate(sides) if side == 0]
    if not inside:
        return None
    step = 0 if room is None else room - stride
    given, kept = (stride // 2 if number else 0), (len(inside) if last else len(inside) - (stride - stride // 2))
    owned = inside[given:kept]
    offsets = [tuple(encoded["offset_mapping"][place][position]) for position in owned]
    return Piece({name: encoded[name][place] for name in names}, owned, number * step + given, offsets)
