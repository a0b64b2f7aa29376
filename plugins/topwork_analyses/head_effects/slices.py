"""Effects of attention heads by slices of rows: which attention heads serve the rows of one class, speaker or length.

Entry points: `slices_of` (cells -> groups of rows) and `slice_lines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from topwork import Json, UsageError
from topwork_analyses.head_effects.effects import Effect
from topwork_analyses.head_effects.row_values import Options
from topwork_analyses.statistics.bootstrap import difference_intervals
from topwork_analyses.statistics.corrections import holm

#: numbers with more distinct values than this are cut into quarters
DISTINCT = 10
#: rows that a slice needs to say anything
LEAST = 4


def slices_of(cells: Sequence[Any], column: str) -> dict[str, NDArray[numpy.int64]]:
    """Group rows by a cell; numbers with more than ten distinct values by quarters. Groups below 4 rows are left out.

    Raises:
        UsageError: fewer than two groups are left.
    """
    names = [str(cell) for cell in cells]
    numeric = all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)
    if numeric and len(set(cells)) > DISTINCT:
        edges = numpy.quantile(cells, [0.25, 0.5, 0.75])
        quarters = numpy.searchsorted(edges, cells, side="left").tolist()
        limits = [f"up to {edges[0]:g}", *(f"up to {edge:g}" for edge in edges[1:]), f"above {edges[-1]:g}"]
        names = [limits[quarter] for quarter in quarters]
    groups = {name: numpy.array([i for i, known in enumerate(names) if known == name]) for name in sorted(set(names))}
    groups = {name: rows for name, rows in groups.items() if len(rows) >= LEAST}
    if len(groups) < 2:
        cause = f"`{column}` makes {len(groups)} slices of {LEAST} rows or more, of {len(cells)} rows"
        raise UsageError(cause, hint="name a column whose values come again, or use more rows")
    return groups


def slice_lines(
    effects: Sequence[Effect], groups: Mapping[str, NDArray[numpy.int64]], measure: str, options: Options
) -> list[dict[str, Json]]:
    """Return a line for each slice: the attention head that serves it most beyond what it does for other rows.

    The measured change of a slice is compared with that of all other rows; p-values are corrected for all attention
    heads and slices (Holm).

    Args:
        effects: of attention heads, with changes of single rows.
        groups: positions of the rows of each slice.
        measure: "metric" or "loss".
        options: of intervals.
    """
    usable = [effect for effect in effects if measure in effect.changes]
    if not usable:
        return []
    changes = numpy.stack([effect.changes[measure] for effect in usable], axis=1)
    lines: list[dict[str, Json]] = []
    p_values: list[float] = []
    for name, rows in groups.items():
        others = numpy.setdiff1d(numpy.arange(len(changes)), rows)
        intervals = difference_intervals(
            changes[rows], changes[others], confidence=options.confidence, draws=options.draws, seed=options.seed
        )
        p_values += [interval.p for interval in intervals]
        largest = max(range(len(usable)), key=lambda index: abs(intervals[index].estimate))
        effect, interval = usable[largest], intervals[largest]
        lines.append(
            {
                "slice": name,
                "rows": len(rows),
                "layer": effect.layer.path,
                "head": effect.head,
                f"{measure} change here": float(changes[rows, largest].mean()),
                "elsewhere": float(changes[others, largest].mean()),
                "difference": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "index": len(p_values) - len(usable) + largest,
            }
        )
    corrected = holm(p_values)
    for line in lines:
        line["p"] = corrected[line.pop("index")]
    return lines
