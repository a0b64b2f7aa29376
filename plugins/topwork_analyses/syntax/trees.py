"""Syntax trees with tokens as leaves, and distances between their tokens.

Entry points: `SyntaxTree`, `token_distances`. Trees of Python are made in `python_trees`, of other languages in
`grammars`, of sentences in `dependencies`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Token:
    """Token of a text.

    Args:
        start: first character.
        end: character behind the last.
        type: name of its kind ("identifier", "string"), of keywords and signs what they are.
        text: what stands there.
    """

    start: int
    end: int
    type: str
    text: str


@dataclass(frozen=True)
class SyntaxTree:
    """Syntax tree of a text.

    Args:
        parents: for each node the index of the node above it, -1 for a root.
        leaves: for each token, in the order of the text, its node.
        tokens: the tokens.
    """

    parents: Sequence[int]
    leaves: Sequence[int]
    tokens: Sequence[Token]

    def edges(self, upgraded: bool = True) -> list[tuple[int, int]]:
        """Return the edges between nodes.

        Args:
            upgraded: with those that make the U-AST of Chen et al. 2022: between tokens that follow each other, and
                between successive uses of one identifier.
        """
        edges = [(node, parent) for node, parent in enumerate(self.parents) if parent >= 0]
        if not upgraded:
            return edges
        edges += pairwise(self.leaves)
        last_use: dict[str, int] = {}
        for leaf, token in zip(self.leaves, self.tokens):
            if "identifier" in token.type:
                if token.text in last_use:
                    edges.append((last_use[token.text], leaf))
                last_use[token.text] = leaf
        return edges


def token_distances(tree: SyntaxTree, upgraded: bool = True, kept: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Return the number of edges on the shortest way between each two tokens [tokens, tokens]; inf without a way.

    Args:
        tree: any tree.
        upgraded: with the edges of the U-AST; see `SyntaxTree.edges`.
        kept: indices of the tokens whose distances are returned; None for all.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import shortest_path

    edges = tree.edges(upgraded)
    size = len(tree.parents)
    leaves = [tree.leaves[index] for index in (range(len(tree.leaves)) if kept is None else kept)]
    if not edges:
        return np.where(np.eye(size, dtype=bool), 0.0, np.inf)[np.ix_(leaves, leaves)]
    starts, ends = np.array(edges).T
    graph = csr_matrix((np.ones(len(edges)), (starts, ends)), shape=(size, size))
    graph.data[:] = 1  # an edge that is there twice is one
    return shortest_path(graph, directed=False, unweighted=True, indices=leaves)[:, leaves]
