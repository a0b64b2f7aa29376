"""Syntax trees of any language that has a grammar of tree-sitter, installed apart.

Entry points: `tree_of`, which takes Python without tree-sitter, and `grammar_tree`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from topwork import DataError, Row, UsageError
from topwork_analyses.positions.readers import text_of_row
from topwork_analyses.syntax.python_trees import python_tree
from topwork_analyses.syntax.trees import SyntaxTree, Token


def tree_of(source: str, language: str = "python", row: int | None = None) -> SyntaxTree:
    """Return the syntax tree of source code.

    Args:
        source: the code.
        language: "python", or the name of a grammar of tree-sitter that is installed ("java", "javascript", "go").
        row: index of the row, for errors.

    Raises:
        UsageError: there is no such grammar.
        DataError: the code does not follow it.
    """
    return python_tree(source, row) if language == "python" else grammar_tree(source, language, row)


def tree_of_row(row: Row, index: int | None = None, *, language: str = "python") -> SyntaxTree:
    """Return the syntax tree of the code that is a row's text.

    Raises:
        UsageError: there is no such grammar.
        DataError: the row has no text, or its code does not follow the grammar.
    """
    text = text_of_row(row)
    if text is None:
        raise DataError("a syntax tree needs a text", row=index, column="text")
    return tree_of(text, language, index)


def grammar_tree(source: str, language: str, row: int | None = None) -> SyntaxTree:
    """Return the syntax tree of source code by tree-sitter; comments are no tokens.

    Raises:
        UsageError: tree-sitter or the grammar is not installed.
        DataError: the code does not follow the grammar.
    """
    root = _parser(language).parse(source.encode()).root_node
    if root.has_error:
        raise DataError(f"does not follow the grammar of {language}", row=row, hint="leave the row out")
    characters = _characters(source)
    parents: list[int] = []
    leaves: list[int] = []
    tokens: list[Token] = []
    waiting: list[tuple[Any, int]] = [(root, -1)]
    while waiting:
        node, parent = waiting.pop()
        if "comment" in node.type:
            continue
        index = len(parents)
        parents.append(parent)
        if node.child_count:
            waiting += [(child, index) for child in reversed(node.children)]
        elif node.end_byte > node.start_byte:
            start, end = characters[node.start_byte], characters[node.end_byte]
            leaves.append(index)
            tokens.append(Token(start, end, node.type, source[start:end]))
    return SyntaxTree(parents, leaves, tokens)


def _parser(language: str) -> Any:
    package = f"tree_sitter_{language.replace('-', '_')}"
    try:
        tree_sitter, grammar = import_module("tree_sitter"), import_module(package)
    except ImportError as error:
        hint = f"pip install 'topwork[grammars]' tree-sitter-{language}"
        raise UsageError(f"syntax trees of `{language}` need {package}", place="language", hint=hint) from error
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def _characters(source: str) -> dict[int, int]:
    """Bytes of UTF-8 at which a character begins -> its index."""
    result, position = {}, 0
    for index, character in enumerate(source):
        result[position] = index
        position += len(character.encode())
    return {**result, position: len(source)}
