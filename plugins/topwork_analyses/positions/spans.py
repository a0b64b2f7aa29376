"""Spans of rows, in words of text, regions of images and stretches of time, and the positions that they cover.

Entry points: `Span` and `Layout.positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from topwork import Refused, Units
from topwork_analyses.positions.tokens import Characters, TextTokens, tokens_covering


@dataclass(frozen=True)
class Span:
    """Part of a row.

    Args:
        kind: "characters" of its text, "region" of its image, "seconds" of its sound, or "whole" for all of it.
        bounds: (start, end) of characters and seconds; (left, top, right, bottom) of a region, as shares of the width
            and height of the image as the model sees it; () for the whole.
        name: what stands there (a word), None where it has no name.
    """

    kind: Literal["characters", "region", "seconds", "whole"]
    bounds: tuple[float, ...] = ()
    name: str | None = None


@dataclass
class Layout:
    """Positions of the states of one item.

    Args:
        count: how many positions there are.
        units: what they are.
        text: the characters that the positions cover; None for what is no text.
    """

    count: int
    units: Units
    text: TextTokens | None = None

    def positions(self, span: Span) -> list[int]:
        """Return the positions of a span in their order; none where the item does not hold all of it.

        Raises:
            Refused: positions of this kind are not known.
        """
        if span.kind == "whole":
            special = set(self.units.special)
            return [index for index in range(self.count) if index not in special] or list(range(self.count))
        if span.kind == "characters" and self.text is not None:
            start, end = int(span.bounds[0]), int(span.bounds[1])
            is_cut = start < self.text.shown[0] or end > self.text.shown[1]
            return [] if is_cut else tokens_covering(self.text.characters, start, end)
        if span.kind == "region" and self.units.grid is not None:
            return self._patches(span.bounds, self.units.grid)
        if span.kind == "seconds" and self.units.seconds:
            first = int(span.bounds[0] / self.units.seconds)
            last = max(first + 1, round(span.bounds[1] / self.units.seconds))
            return list(range(first, min(last, self.count)))
        raise Refused(
            f"positions of {span.kind} are not known here: the task's positions are of the kind `{self.units.kind}`",
            reason="unknown_layout",
            hint="label whole rows, or choose a base whose positions tile its input",
        )

    def words(self, words: Sequence[Characters]) -> list[list[int]] | None:
        """Return the positions of words that follow each other, each position in one word.

        A token over the end of a word, as in a text without spaces, counts for the word of which it covers more.

        Args:
            words: the characters of each.

        Returns:
            None where the item does not hold all of them, or a word has no token that counts for it.
        """
        assert self.text is not None
        groups = [self.positions(Span("characters", word)) for word in words]
        largest: dict[int, tuple[int, int]] = {}
        for index, ((start, end), positions) in enumerate(zip(words, groups, strict=True)):
            for position in positions:
                first, last = self.text.characters[position] or (0, 0)
                # Of two words with as much of a token it is the first's.
                largest[position] = max(largest.get(position, (0, 0)), (min(end, last) - max(start, first), -index))
        groups = [[each for each in positions if largest[each][1] == -i] for i, positions in enumerate(groups)]
        return groups if all(groups) else None

    def _patches(self, bounds: Sequence[float], grid: tuple[int, int]) -> list[int]:
        """Patches whose centre lies in a region, or the one around the middle of a small region."""
        special = set(self.units.special)
        patches = [index for index in range(self.count) if index not in special]
        left, top, right, bottom = bounds
        rows, columns = grid
        inside = [
            patch
            for index, patch in enumerate(patches[: rows * columns])
            if top <= (index // columns + 0.5) / rows < bottom and left <= (index % columns + 0.5) / columns < right
        ]
        row = min(rows - 1, int((top + bottom) / 2 * rows))
        column = min(columns - 1, int((left + right) / 2 * columns))
        return inside or [patches[row * columns + column]]
