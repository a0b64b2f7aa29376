"""Sequences longer than a model: windows with a stride over a context, and the tokens that each window covers.

The Rust tokenizers panic (past `except Exception`) on a stride that does not fit and fail on a question that fills the
window: lengths are settled here before they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from topwork import UsageError


@dataclass(frozen=True)
class Window:
    """One window over a context.

    Args:
        inputs: the tokenizer's outputs, by name.
        first: position of the context's first token in the window.
        offsets: (start, end) characters in the context of each of its tokens in the window.
        null: position that stands for "no answer": the class token, or the first token.
    """

    inputs: dict[str, list[int]]
    first: int
    offsets: list[tuple[int, int]]
    null: int


def windows(
    tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], names: Sequence[str], length: int, stride: int
) -> list[list[Window]]:
    """Windows of each (question, context): the whole question in each, and as much context as fits.

    Args:
        names: outputs of the tokenizer to keep.
        length: tokens in a window, special ones included.
        stride: tokens of context that neighbouring windows share; less where a long question leaves too little room.

    A question longer than half the window is cut to that.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    longest_question = (length - special) // 2
    if longest_question < 1:
        raise UsageError(f"`max_length` is {length}: no room for a question and a context", hint="set it to 16 or more")
    asked, counts = _cut(tokenizer, questions, longest_question)
    strides = [max(0, min(stride, length - special - count - 1)) for count in counts]
    found: list[list[Window]] = [[] for _ in questions]
    for shared in sorted(set(strides)):
        numbers = [number for number, entry in enumerate(strides) if entry == shared]
        encoded = tokenizer(
            [asked[number] for number in numbers],
            [contexts[number] for number in numbers],
            truncation="only_second",
            max_length=length,
            stride=shared,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for place, source in enumerate(encoded["overflow_to_sample_mapping"]):
            found[numbers[source]].append(_window(tokenizer, encoded, place, names))
    return found


def _cut(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[list[str], list[int]]:
    """Texts of at most `longest` tokens, and how many tokens each has."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    cut, counts = [], []
    for text, offsets in zip(texts, encoded["offset_mapping"]):
        if len(offsets) > longest:
            text = text[: offsets[longest - 1][1]]
            again = tokenizer(text, add_special_tokens=False)["input_ids"]
            while len(again) > longest:  # cutting inside a word can make other tokens of its rest
                text = text[:-1]
                again = tokenizer(text, add_special_tokens=False)["input_ids"]
            counts.append(len(again))
        else:
            counts.append(len(offsets))
        cut.append(text)
    return cut, counts


def _window(tokenizer: Any, encoded: Any, place: int, names: Sequence[str]) -> Window:
    sides = encoded.sequence_ids(place)
    ids = encoded["input_ids"][place]
    context = [position for position, side in enumerate(sides) if side == 1]
    first = context[0] if context else len(ids)
    offsets = [tuple(encoded["offset_mapping"][place][position]) for position in context]
    null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
    return Window({name: encoded[name][place] for name in names}, first, offsets, null)


def span_in(window: Window, start: int, end: int) -> tuple[int, int] | None:
    """Positions of the first and last token of the characters [start, end) of the context, or None when the window
    does not hold all of them."""
    offsets = window.offsets
    if not offsets or offsets[0][0] > start or offsets[-1][1] < end:
        return None
    inside = [place for place, (begin, stop) in enumerate(offsets) if stop > start and begin < end]
    return (window.first + inside[0], window.first + inside[-1]) if inside else None
