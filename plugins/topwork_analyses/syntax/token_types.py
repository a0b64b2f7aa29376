"""Types of tokens that get much attention: the filter of Chen et al. 2022 (section 3.2).

Entry point: `TypeRates`. A type's rate is the share of the cells in the rows and columns of its tokens whose attention
is large. Types that occur more than once a row on average are ranked by it, and the first eight are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from topwork import Json
from topwork_analyses.syntax.cat_score import ATTENTION_QUANTILE, large_attention


class TypeRates:
    """Rates of the types of tokens over rows.

    Args:
        quantile: above that quantile of a row attention is large.
    """

    def __init__(self, quantile: float = ATTENTION_QUANTILE) -> None:
        self.quantile, self.rows = quantile, 0
        self.large: Counter[str] = Counter()
        self.cells: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def add(self, attention: ArrayLike, types: Sequence[str]) -> None:
        """Count one row.

        Args:
            attention: [tokens, tokens].
            types: of the tokens.
        """
        large = large_attention(np.asarray(attention, dtype=np.float64), self.quantile)
        self.rows += 1
        for kind in set(types):
            members = np.array([each == kind for each in types])
            cells = members[:, None] | members[None]
            self.large[kind] += int(large[cells].sum())
            self.cells[kind] += int(cells.sum())
            self.tokens[kind] += int(members.sum())

    def ranked(self) -> list[dict[str, Json]]:
        """Return the types that occur more than once a row, the highest rate first."""
        frequent = [kind for kind, count in self.tokens.items() if count > self.rows]
        lines = [
            {"type": kind, "rate": self.large[kind] / self.cells[kind], "per_row": self.tokens[kind] / self.rows}
            for kind in frequent
        ]
        return sorted(lines, key=lambda line: (-line["rate"], line["type"]))

    def best(self, count: int = 8) -> list[str]:
        """Return the types with the highest rates."""
        return [line["type"] for line in self.ranked()[:count]]
