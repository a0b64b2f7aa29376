"""Dependency trees of sentences as syntax trees whose nodes are all words, from heads as CoNLL-U writes them."""

from __future__ import annotations

from topwork import DataError, Row
from topwork_analyses.positions.heads import heads_of
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
        DataError: these are no heads, or no tags, of these words.
    """
    text = text_of_row(row)
    if text is None or row.get("heads") is None:
        raise DataError("a dependency tree needs words and heads", row=index, column="heads")
    words: list[str] = list(row["words"]) if row.get("words") is not None else text.split()
    heads = heads_of(row, len(words), index)
    tags = row.get("tags") or [str(word).lower() for word in words]
    if len(tags) != len(words):
        raise DataError(f"has {len(tags)} entries for {len(words)} words", row=index, column="tags")
    spans = words_in(text, words, index)
    tokens = [Token(start, end, str(tag), text[start:end]) for (start, end), tag in zip(spans, tags)]
    if heads.count(-1) < 2:
        return SyntaxTree(heads, range(len(words)), tokens)
    # Several roots hang on a node above them: distances between their words are then numbers too.
    parents = [len(words) if head < 0 else head for head in heads]
    return SyntaxTree([*parents, -1], range(len(words)), tokens)
