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
    try:
        module = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        cause = f"no Python of this version: {error.msg if isinstance(error, SyntaxError) else error}"
        raise DataError(cause, row=row, hint="leave the row out (`on_error: skip`), or name its language") from error
    lines = io.StringIO(source).readlines()  # form feeds end no line here
    starts = [0, *accumulate(map(len, lines))]
    parents, spans = _nodes(module, lines, starts, len(source))
    leaves, kept = [], []
    for token in tokens:
        if token.type in _LAYOUT or not token.string.strip():
            continue
        start = starts[token.start[0] - 1] + token.start[1]
        end = starts[token.end[0] - 1] + token.end[1]
        leaves.append(len(parents))
        parents.append(_innermost(spans, start, end))
        kept.append(Token(start, end, _type(token), source[start:end]))
    return SyntaxTree(parents, leaves, kept)


def _nodes(
    module: ast.Module, lines: Sequence[str], starts: Sequence[int], length: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return parents and spans (characters) of the nodes that have a position, the module first."""
    parents, spans = [-1], [(0, length)]

    def character(line: int, byte: int) -> int:
        text = lines[line - 1] if line <= len(lines) else ""
        return starts[line - 1] + (byte if text.isascii() else len(text.encode()[:byte].decode(errors="ignore")))

    def visit(node: ast.AST, parent: int) -> None:
        for child in ast.iter_child_nodes(node):
            above = parent
            if isinstance(child, _PLACED):
                above = len(parents)
                parents.append(parent)
                end = character(child.end_lineno or child.lineno, child.end_col_offset or 0)
                spans.append((character(child.lineno, child.col_offset), end))
            visit(child, above)

    visit(module, 0)
    return parents, spans


def _innermost(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Return the last of the smallest nodes that cover a token; children follow their parents."""
    covering = (index for index, span in enumerate(spans) if span[0] <= start and end <= span[1])
    return min(covering, key=lambda index: (spans[index][1] - spans[index][0], -index))


def _type(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return token.string if keyword.iskeyword(token.string) else "identifier"
    if token.type == tokenize.NUMBER:
        return "number"
    return token.string if token.type == tokenize.OP else "string"
