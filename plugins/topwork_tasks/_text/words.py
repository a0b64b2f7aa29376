r"""Words of a text in any script: where they stand, and how texts given as words are joined.

Entry points: `find_words` (spans of characters), `rouge_words` and `split_words` (strings), `join_words`. Letters with
their marks make a word. Han, kana, Thai, Lao, Khmer, Myanmar and other scripts are written without spaces between
words: there every sign, with the marks behind it, is a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

#: (start, end) in characters
Span = tuple[int, int]

#: a sign of a script without spaces between words, with its marks; for `regex` and for the Rust tokenizers
UNSPACED_SIGN = (
    r"(?![\p{N}\p{P}\p{M}])"
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tibetan}\p{Tai_Tham}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Viet}\p{Javanese}\p{Balinese}\p{Vai}\u30FC\uFF70]\p{M}*"
)
# joiners (U+200C, U+200D) stand inside words of Persian and of Indic scripts
_LETTERS = rf"(?:(?!{UNSPACED_SIGN})[\p{{L}}\p{{M}}\p{{Nl}}\p{{No}}\u200C\u200D])+"
_LETTERS_AND_DIGITS = rf"[\p{{L}}\p{{N}}](?:(?!{UNSPACED_SIGN})[\p{{L}}\p{{M}}\p{{N}}\u200C\u200D])*"
_PATTERNS = {
    "tags": rf"{UNSPACED_SIGN}|{_LETTERS}|\p{{Nd}}+|\S\p{{M}}*",
    "rouge": rf"{UNSPACED_SIGN}|{_LETTERS_AND_DIGITS}",
    "signs": r"\S\p{M}*",
    "unspaced": UNSPACED_SIGN,
}


@cache
def _pattern(name: str) -> Any:
    import regex

    return regex.compile(_PATTERNS[name])


def find_words(text: str) -> list[Span]:
    """Find the words of a text: runs of letters, runs of digits, single signs.

    Example:
        >>> find_words("Anna, 2 cats")
        [(0, 4), (4, 5), (6, 7), (8, 12)]
        >>> find_words("北京")
        [(0, 1), (1, 2)]
    """
    return [match.span() for match in _pattern("tags").finditer(text)]


def find_signs(text: str) -> list[Span]:
    """Find every sign of a text that is no white space, with the marks behind it."""
    return [match.span() for match in _pattern("signs").finditer(text)]


def rouge_words(text: str) -> list[str]:
    """Return the lower-case words of a text, without signs that are neither letter, digit nor mark.

    On English the same as the tokenizer of rouge-score, which keeps a-z and 0-9 only.
    """
    return _pattern("rouge").findall(text.lower())


def split_words(text: str) -> list[str]:
    """Split a text at white space; every sign of a script without spaces between words is a word.

    Example:
        >>> split_words("in 北京 2024")
        ['in', '北', '京', '2024']
    """
    return _pattern("unspaced").sub(r" \g<0> ", text).split()


def unspaced_share(texts: Sequence[str]) -> tuple[float, float]:
    """Return which share of the words of texts are signs of a script without spaces, and which share are Han signs."""
    words = signs = han = 0
    for text in texts:
        words += len(rouge_words(text))
        for sign in _pattern("unspaced").findall(text):
            signs += 1
            han += unicodedata.name(sign[0], "").startswith("CJK")
    return (signs / words, han / words) if words else (0.0, 0.0)


def join_words(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Join words by single spaces, as the Hub's pipeline does.

    Returns:
        (text, spans): `spans` says where each word stands in `text`.
    """
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans


def is_punctuation(text: str) -> bool:
    """Return whether a text is punctuation or symbols alone (Unicode categories P and S)."""
    return bool(text) and all(unicodedata.category(sign)[0] in "PS" for sign in text)


def include_marks(text: str, end: int, limit: int | None = None) -> int:
    """Move the end of a span behind the marks (Unicode category M) that follow it, at most to `limit`.

    A tokenizer that strips accents leaves them out of its offsets; a letter without its mark is another letter.
    """
    limit = len(text) if limit is None else limit
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def trim_span(text: str, start: int, end: int) -> Span:
    """Return the span without white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
