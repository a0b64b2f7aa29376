"""Heads of words, as CoNLL-U numbers them: checked once for every analysis that reads dependencies.

Entry point: `heads_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topwork import DataError, Row

_HINT = "write the number of the head's word, from 1; 0 for the root, as CoNLL-U does"


def heads_of(row: Row, words: int, index: int | None = None) -> list[int]:
    """Return the position of the head of each word, from 0; -1 for a root, of which there may be several.

    Args:
        row: with `heads`: for each word the number of its head, from 1, or 0.
        words: how many words the row has.
        index: of the row, for errors.

    Raises:
        DataError: there is not a head for each word, one is no word, or words are heads of each other in a circle.
    """
    heads: Any = row.get("heads")
    if not isinstance(heads, list | tuple):
        raise DataError("is missing, empty or no list", row=index, column="heads", hint=_HINT)
    if len(heads) != words:
        raise DataError(f"has {len(heads)} entries for {words} words", row=index, column="heads", hint=_HINT)
    for head in heads:
        if not isinstance(head, int) or isinstance(head, bool) or not 0 <= head <= words:
            raise DataError(f"{head!r} is no word of {words}", row=index, column="heads", hint=_HINT)
    positions = [head - 1 for head in heads]
    circle = _circle(positions)
    if circle is not None:
        cause = f"going from word {circle + 1} to its head, and on, comes back to it"
        raise DataError(cause, row=index, column="heads", hint="dependencies are a tree")
    return positions


def _circle(heads: Sequence[int]) -> int | None:
    """Return a word of a circle of heads; None where every way ends at a root."""
    reached: dict[int, int] = {}
    for start in range(len(heads)):
        word = start
        while word >= 0 and word not in reached:
            reached[word] = start
            word = heads[word]
        if word >= 0 and reached[word] == start:
            return word
    return None
