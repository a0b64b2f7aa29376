"""Tokens and the characters that they cover, found again in what a task made of a text.

Entry points: `text_tokens`, `words_in` and `tokenizer_of`. A task may put special tokens, a prefix or a second
text around a text, and may cut it: what is left of it stands in the input as one run of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from topwork import DataError, Refused, Task, UsageError

#: (start, end) in characters
Characters = tuple[int, int]


@dataclass(frozen=True)
class TextTokens:
    """Tokens of an input and the text that they show.

    Args:
        characters: of the text that each token covers, None for a token of something else.
        shown: the part of the text that stands in the input.
    """

    characters: Sequence[Characters | None]
    shown: Characters


def tokenizer_of(task: Task) -> Any:
    """Return the tokenizer of a task, of several the one of its first base.

    Raises:
        UsageError: it has none for its input, or none that knows characters.
    """
    processors = {name.rpartition("/")[2]: value for name, value in reversed(task.state.processors.items())}
    tokenizer = processors.get("tokenizer")
    if tokenizer is None:
        raise UsageError(f"task {task.name} has no tokenizer", hint="words need a task on texts")
    if any(column.lazy and not column.target for column in task.columns.values()):
        cause = f"task {task.name} reads images or sound, its tokenizer is for what it writes"
        raise UsageError(cause, hint="words need a task on texts")
    if not getattr(tokenizer, "is_fast", False):
        hint = "use its fast version"
        raise UsageError("the tokenizer does not say which characters its tokens cover", hint=hint)
    return tokenizer


def text_tokens(tokenizer: Any, text: str, ids: Sequence[int]) -> TextTokens:
    """Return the characters of a text that each token of an input covers.

    Args:
        tokenizer: that made the input.
        text: whose tokens stand in the input.
        ids: token ids of the input.

    Raises:
        Refused: the text does not stand in the input.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    result: list[Characters | None] = [None] * len(ids)
    if not tokens:
        return TextTokens(result, (0, len(text)))
    match = SequenceMatcher(None, list(ids), tokens, autojunk=False).find_longest_match()
    outside = len(ids) - match.size
    if match.size < len(tokens) and outside > max(8, match.size):
        raise Refused(
            "the tokens of the text do not stand in the model's input",
            reason="unknown_layout",
            hint="name the column that is read as it is",
        )
    for index in range(match.size):
        start, end = offsets[match.b + index]
        result[match.a + index] = (int(start), int(end)) if end > start else None
    last = match.b + match.size
    begin = int(offsets[match.b - 1][1]) if match.b else 0
    return TextTokens(result, (begin, int(offsets[last][0]) if last < len(tokens) else len(text)))


def words_in(text: str, words: Sequence[str], row: int | None = None) -> list[Characters]:
    """Return where words that follow each other stand in a text.

    Raises:
        DataError: a word does not stand there.
    """
    spans, end = [], 0
    for word in words:
        start = text.find(word, end)
        if start < 0 or not word:
            raise DataError(f"the word {word!r} does not stand in the text behind the word before it", row=row)
        end = start + len(word)
        spans.append((start, end))
    return spans


def tokens_covering(characters: Sequence[Characters | None], start: int, end: int) -> list[int]:
    """Return the indices of the tokens that cover some of the characters from `start` to `end`."""
    inside = (index for index, span in enumerate(characters) if span and span[0] < end and start < span[1])
    return list(inside)
