"""Dependency trees of sentences as syntax trees whose nodes are all words, from heads as CoNLL-U writes them."""

from __future__ import annotations

from typing import Any

from topwork import DataError, Row
from topwork_analyses.positions.readers import text_of_row
from topwork_analyses.positions.tokens import words_in
from topwork_analyses.syntax.trees import SyntaxTree, Token


def dependency_tree(row: Row, index: int | None = None) -> SyntaxTree:
    """Return the tree of a sentence.

    Args:
        row: with `heads`, numbers of words from 1 (0 for the root), and `words` or a `text` of words with spaces
            between them; the types of the words are `tags` where there are any.
        index: of the row, for errors.

    Raises:
        DataError: these are no heads of these words.
    """
    text = text_of_row(row)
    if text is None or row.get("heads") is None:
        raise DataError("a dependency tree needs words and heads", row=index, column="heads")
    words: list[str] = list(row["words"]) if row.get("words") is not None else text.split()
    heads: list[Any] = list(row["heads"])
    tags = row.get("tags") or [str(word).lower() for word in words]
    wrong = [head for head in heads if not isinstance(head, int) or not 0 <= head <= len(words)]
    if len(heads) != len(words) or len(tags) != len(words) or wrong:
        hint = "number words from 1, and write 0 for the root, as CoNLL-U does"
        raise DataError(f"no heads of {len(words)} words", row=index, column="heads", hint=hint)
    spans = words_in(text, words, index)
    tokens = [Token(start, end, str(tag), text[start:end]) for (start, end), tag in zip(spans, tags)]
    return SyntaxTree([head - 1 for head in heads], range(len(words)), tokens)
