"""Spans of rows, in words of text, regions of images and stretches of time, and the positions that they cover.

Entry points: `Span` and `Layout.positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from topwork import Refused, Units
from topwork_analyses.positions.tokens import Characters, tokens_covering


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
        characters: for each position, characters of the text that it covers; None for what is no text.
    """

    count: int
    units: Units
    characters: Sequence[Characters | None] | None = None

    def positions(self, span: Span) -> list[int]:
        """Return the positions of a span in their order; none where the item does not hold it.

        Raises:
            Refused: positions of this kind are not known.
        """
        if span.kind == "whole":
            special = set(self.units.special)
            return [index for index in range(self.count) if index not in special] or list(range(self.count))
        if span.kind == "characters" and self.characters is not None:
            start, end = int(span.bounds[0]), int(span.bounds[1])
            inside = tokens_covering(self.characters, start, end)
            is_cut = inside and (self.characters[inside[-1]] or (0, 0))[1] < end and inside[-1] == self._last()
            return [] if is_cut else inside
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

    def _last(self) -> int:
        """Return the last position that covers characters."""
        assert self.characters is not None
        return max((index for index, span in enumerate(self.characters) if span), default=-1)

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
