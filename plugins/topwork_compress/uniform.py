"""Uniform cuts: all blocks of one width keep the same number of neurons, so that a config can say it.

Entry points: `joined`, `expanded` and `joined_table`. The k-th best neurons of all blocks of a group are one choice;
each block still loses those of its own neurons that matter least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from topwork_compress.latency import LatencyTable
from topwork_compress.units import Choice
from topwork_lens.blocks.plain_widths import PlainWidth


def joined(choices: Sequence[Choice], widths: Sequence[PlainWidth]) -> list[Choice]:
    """Return one choice for the k-th best neurons of all blocks of each width.

    Args:
        choices: one for each neuron of the blocks.
        widths: which blocks keep the same number of neurons.
    """
    result = []
    for width in widths:
        ranked = [_ranked(choices, path) for path in width.paths]
        for rank, alike in enumerate(zip(*ranked, strict=True)):
            cost, score = sum(choice.cost for choice in alike), sum(choice.score for choice in alike)
            result.append(replace(alike[0], path=width.attribute, members=(rank,), cost=cost, score=score))
    return result


def expanded(removed: Sequence[Choice], choices: Sequence[Choice], widths: Sequence[PlainWidth]) -> list[Choice]:
    """Return the choices of single neurons that joined choices stand for: of each block as many, the worst first."""
    counts = dict.fromkeys((width.attribute for width in widths), 0)
    for choice in removed:
        counts[choice.path] += len(choice.members)
    result = []
    for width in widths:
        for path in width.paths:
            ranked = _ranked(choices, path)
            result += ranked[len(ranked) - counts[width.attribute] :]
    return result


def joined_table(table: LatencyTable, widths: Sequence[PlainWidth]) -> LatencyTable:
    """Return a table with a row for each width: the seconds of all its blocks together."""
    seconds: Mapping[str, list[tuple[int, float]]] = {width.attribute: [] for width in widths}
    for width in widths:
        counts = sorted({kept for path in width.paths for kept, _ in table.seconds[path]})
        for kept in counts:
            seconds[width.attribute].append((kept, sum(table.at(path, kept) for path in width.paths)))
    return LatencyTable(table.whole, seconds)


def _ranked(choices: Sequence[Choice], path: str) -> list[Choice]:
    return sorted(
        (choice for choice in choices if choice.path == path), key=lambda choice: (-choice.score, choice.members)
    )
