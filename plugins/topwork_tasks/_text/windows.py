"""Texts longer than a model: windows with a stride, and the characters that each of their tokens covers.

Entry points: `context_windows` (a question with part of its context in each) and `text_windows` (one text, whose
windows divide their overlap, so that each token belongs to one window). `first_tokens` and `words_of_tokens` relate
tokens to words. The Rust tokenizers panic (past `except Exception`) on a stride that does not fit and fail on a
question that fills the window: lengths are settled before they are called.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from topwork import UsageError
from topwork_tasks._text.words import Span, include_marks

# ---------------------------------------------------------------- a question and windows of its context


@dataclass(frozen=True)
class ContextWindow:
    """One window over a context.

    Args:
        inputs: the tokenizer's outputs, by name.
        first: position of the context's first token in the window.
        offsets: (start, end) characters in the context of each of its tokens in the window.
        null: position that stands for "no answer": the class token, or the first token.
    """

    inputs: dict[str, list[int]]
    first: int
    offsets: list[Span]
    null: int


def context_windows(
    tokenizer: Any, questions: Sequence[str], contexts: Sequence[str], names: Sequence[str], length: int, stride: int
) -> list[list[ContextWindow]]:
    """Make the windows of each (question, context): the whole question in each, and as much context as fits.

    A question longer than half the window is cut to that.

    Args:
        tokenizer: a fast tokenizer.
        questions: the questions.
        contexts: a context for each of them.
        names: outputs of the tokenizer to keep.
        length: tokens in a window, special ones included.
        stride: tokens of context that neighbouring windows share; less where a long question leaves too little room.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    longest_question = (length - special) // 2
    if longest_question < 1:
        raise UsageError(f"`max_length` is {length}: no room for a question and a context", hint="set it to 16 or more")
    cut_questions, counts = _cut(tokenizer, questions, longest_question)
    strides = [max(0, min(stride, length - special - count - 1)) for count in counts]
    result: list[list[ContextWindow]] = [[] for _ in questions]
    for shared in sorted(set(strides)):
        rows = [index for index, row_stride in enumerate(strides) if row_stride == shared]
        encoded = tokenizer(
            [cut_questions[row] for row in rows],
            [contexts[row] for row in rows],
            truncation="only_second",
            max_length=length,
            stride=shared,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for index, source in enumerate(encoded["overflow_to_sample_mapping"]):
            row = rows[source]
            result[row].append(_context_window(tokenizer, encoded, index, names, contexts[row]))
    return result


def _cut(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[list[str], list[int]]:
    """Return texts of at most `longest` tokens, and how many tokens each has."""
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


def _context_window(tokenizer: Any, encoded: Any, index: int, names: Sequence[str], context: str) -> ContextWindow:
    sides = encoded.sequence_ids(index)
    ids = encoded["input_ids"][index]
    positions = [position for position, side in enumerate(sides) if side == 1]
    first = positions[0] if positions else len(ids)
    offsets = token_spans(context, [tuple(encoded["offset_mapping"][index][position]) for position in positions])
    null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
    return ContextWindow({name: encoded[name][index] for name in names}, first, offsets, null)


def span_in(window: ContextWindow, start: int, end: int) -> Span | None:
    """Return the positions of the first and last token of the characters [start, end) of the context.

    None when the window does not hold all of them.
    """
    offsets = window.offsets
    if not offsets or offsets[0][0] > start or offsets[-1][1] < end:
        return None
    inside = [index for index, (begin, stop) in enumerate(offsets) if stop > start and begin < end]
    return (window.first + inside[0], window.first + inside[-1]) if inside else None


# ---------------------------------------------------------------- windows of one text


@dataclass(frozen=True)
class TextWindow:
    """One window over a text.

    Args:
        inputs: the tokenizer's outputs, by name.
        positions: positions in the window of the tokens that it owns (special tokens and tokens that a neighbouring
            window sees with more context are left out).
        first: index, in the whole text, of the first token that it owns.
        offsets: (start, end) characters of those tokens.
    """

    inputs: dict[str, list[int]]
    positions: list[int]
    first: int
    offsets: list[Span]


def text_windows(
    tokenizer: Any, texts: Sequence[str], names: Sequence[str], length: int | None, stride: int
) -> list[list[TextWindow]]:
    """Make the windows of each text, in order; together they own each token once. A text without tokens has none.

    Args:
        tokenizer: a fast tokenizer.
        texts: the texts.
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
    result: list[list[TextWindow]] = [[] for _ in texts]
    for index, source in enumerate(sources):
        is_last = index + 1 == len(sources) or sources[index + 1] != source
        step = 0 if room is None else room - stride
        window = _text_window(encoded, index, names, texts[source], len(result[source]), is_last, step, stride)
        if window is not None:
            result[source].append(window)
    return result


def _text_window(
    encoded: Any, index: int, names: Sequence[str], text: str, count: int, is_last: bool, step: int, stride: int
) -> TextWindow | None:
    """Make the window with `count` windows of its text before it, which begins `step` tokens behind the last one."""
    inside = [position for position, side in enumerate(encoded.sequence_ids(index)) if side == 0]
    if not inside:
        return None
    start = stride // 2 if count else 0
    end = len(inside) if is_last else len(inside) - (stride - stride // 2)
    offsets = token_spans(text, [tuple(encoded["offset_mapping"][index][position]) for position in inside])
    inputs = {name: encoded[name][index] for name in names}
    return TextWindow(inputs, inside[start:end], count * step + start, offsets[start:end])


# ---------------------------------------------------------------- tokens and words


def token_spans(text: str, offsets: Sequence[Span]) -> list[Span]:
    """Return the characters that tokens cover, marks that a tokenizer strips included with the letter before them."""
    if text.isascii():
        return list(offsets)
    starts: list[int | None] = [*(start for start, _ in offsets[1:]), None]
    return [
        (start, include_marks(text, end, following) if end > start else end)
        for (start, end), following in zip(offsets, starts)
    ]


def tokens_of_words(words: Sequence[Span], tokens: Sequence[Span]) -> list[list[int]]:
    """Return for each word the indices of the tokens that begin in it.

    A word in which none begins has the token of an earlier word that covers it (tokens of some vocabularies reach over
    several signs), or none where the tokenizer left it out.
    """
    result: list[list[int]] = [[] for _ in words]
    for token, word in enumerate(words_of_tokens(words, tokens)):
        if word is not None:
            result[word].append(token)
    for word_tokens, covering in zip(result, first_tokens(words, tokens)):
        if not word_tokens and covering is not None:
            word_tokens.append(covering)
    return result


def covered_words(words: Sequence[Span], tokens: Sequence[Span]) -> list[bool]:
    """Return for each word whether no token begins in it, and one of an earlier word covers it."""
    carried, covered = -1, []
    for word_tokens in tokens_of_words(words, tokens):
        covered.append(bool(word_tokens) and word_tokens[0] <= carried)
        carried = max([carried, *word_tokens])
    return covered


def first_tokens(words: Sequence[Span], tokens: Sequence[Span]) -> list[int | None]:
    """Return for each word the first token that covers some of it; None where the tokenizer left the word out."""
    result: list[int | None] = []
    token = 0
    for start, end in words:
        while token < len(tokens) and tokens[token][1] <= start:
            token += 1
        result.append(token if token < len(tokens) and tokens[token][0] < end else None)
    return result


def words_of_tokens(words: Sequence[Span], tokens: Sequence[Span]) -> list[int | None]:
    """Return for each token the word that it begins in (or, when it begins before one, reaches into).

    None for a token between words.
    """
    starts = [start for start, _ in words]
    result: list[int | None] = []
    for start, end in tokens:
        word = bisect_right(starts, start) - 1
        if word >= 0 and start < words[word][1]:
            result.append(word)
        elif word + 1 < len(words) and words[word + 1][0] < end:
            result.append(word + 1)
        else:
            result.append(None)
    return result
