"""Syntax trees of Python by the standard library: nodes of `ast`, tokens of `tokenize` as their leaves.

A token hangs on the innermost node that covers it. Layout (indentation, line ends, comments) is no token. The types
are those of tree-sitter's grammar where the paper names them: identifiers, strings, numbers; keywords and signs are
types of their own.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Sequence
from itertools import accumulate

from topwork import DataError
from topwork_analyses.syntax.trees import SyntaxTree, Token

_LAYOUT = {
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.COMMENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
#: nodes that stand somewhere in the text
_PLACED = ast.expr | ast.stmt | ast.excepthandler | ast.arg | ast.keyword | ast.alias | ast.pattern


def python_tree(source: str, row: int | None = None) -> SyntaxTree:
    """Return the syntax tree of Python source.

    Args:
        source: of a module, or of a part that stands by itself.
        row: index of the row, for errors.

    Raises:
        DataError: it is no Python of this version.
    """
    # `ast` ends a line at each of the three, `io.StringIO` at one of them.
    unix = source.replace("\r\n", "\n").replace("\r", "\n")
    original = _without_line_feeds(source)
    try:
        module = ast.parse(unix)
        tokens = list(tokenize.generate_tokens(io.StringIO(unix).readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        cause = f"no Python of this version: {error.msg if isinstance(error, SyntaxError) else error}"
        raise DataError(cause, row=row, hint="leave the row out (`on_error: skip`), or name its language") from error
    lines = io.StringIO(unix).readlines()  # form feeds end no line here
    starts = [0, *accumulate(map(len, lines))]
    parents, spans = _nodes(module, lines, starts, unix)
    innermost = _Innermost(spans)
    leaves, kept = [], []
    for token in tokens:
        if token.type in _LAYOUT or not token.string.strip():
            continue
        start = starts[token.start[0] - 1] + token.start[1]
        end = starts[token.end[0] - 1] + token.end[1]
        leaves.append(len(parents))
        parents.append(innermost(start, end))
        first, last = original[start], original[end - 1] + 1
        kept.append(Token(first, last, _type(token), source[first:last]))
    return SyntaxTree(parents, leaves, kept)


def _without_line_feeds(source: str) -> Sequence[int]:
    """Return the indices of the characters of a source that are not the second half of a line end (CR LF)."""
    if "\r\n" not in source:
        return range(len(source))
    return [index for index in range(len(source)) if source[index - 1 : index + 1] != "\r\n"]


def _nodes(
    module: ast.Module, lines: Sequence[str], starts: Sequence[int], source: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return parents and spans (characters) of the nodes that have a position, the module first.

    A function or a class begins with its first decorator.
    """
    parents, spans = [-1], [(0, len(source))]

    def character(line: int, byte: int) -> int:
        text = lines[line - 1] if line <= len(lines) else ""
        return starts[line - 1] + (byte if text.isascii() else len(text.encode()[:byte].decode(errors="ignore")))

    waiting: list[tuple[ast.AST, int]] = [(child, 0) for child in ast.iter_child_nodes(module)][::-1]
    while waiting:
        node, parent = waiting.pop()
        above = parent
        if isinstance(node, _PLACED):
            above = len(parents)
            parents.append(parent)
            start = character(node.lineno, node.col_offset)
            for decorator in getattr(node, "decorator_list", ())[:1]:
                start = source.rindex("@", 0, character(decorator.lineno, decorator.col_offset))
            spans.append((start, character(node.end_lineno or node.lineno, node.end_col_offset or 0)))
        waiting += [(child, above) for child in ast.iter_child_nodes(node)][::-1]
    return parents, spans


class _Innermost:
    """Search for the last of the smallest nodes that cover a token, for tokens in their order.

    Args:
        spans: of nodes, each within that of its parent; children follow their parents.
    """

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self.spans = spans
        self.coming = sorted(range(len(spans)), key=lambda index: (spans[index][0], -spans[index][1], index))[::-1]
        self.opened: list[int] = []

    def __call__(self, start: int, end: int) -> int:
        while self.coming and self.spans[self.coming[-1]][0] <= start:
            self.opened.append(self.coming.pop())
        while self.spans[self.opened[-1]][1] <= start:
            self.opened.pop()
        return next(index for index in reversed(self.opened) if self.spans[index][1] >= end)


def _type(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return token.string if keyword.iskeyword(token.string) else "identifier"
    if token.type == tokenize.NUMBER:
        return "number"
    return token.string if token.type == tokenize.OP else "string"
