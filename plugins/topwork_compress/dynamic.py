"""Search by dynamic programming, for costs that do not add up unit by unit, such as seconds.

Entry point: `search_table`. Layer by layer, best(c) is the largest kept score of all layers so far that costs c; the
next layer adds each of its widths. States whose costs lie in one of `BUCKETS` equal parts of the budget are represented
by the best of them, with its exact cost, so that the budget is never exceeded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from topwork import UsageError
from topwork_compress.latency import LatencyTable
from topwork_compress.units import Choice

#: parts of the budget, and widths of one layer or block, that are told apart
BUCKETS, _MOST_WIDTHS = 1000, 64


@dataclass
class _Options:
    """Counts of units that one layer or block can keep.

    Args:
        path: of the layer or block.
        ranked: its choices, the best first.
        counts: how many of them are kept.
        costs: seconds.
        scores: kept scores.
    """

    path: str
    ranked: list[Choice]
    counts: np.ndarray
    costs: np.ndarray
    scores: np.ndarray


def search_table(
    choices: Sequence[Choice], table: LatencyTable, seconds: float, at_least: int = 1, buckets: int = BUCKETS
) -> tuple[list[Choice], float]:
    """Choose what is kept so that the whole takes at most so many seconds by a table.

    Args:
        choices: everything that can be kept or removed.
        table: seconds of layers and blocks by width.
        seconds: the largest time of the whole.
        at_least: units that every layer and block keeps.
        buckets: costs that are told apart.

    Returns:
        What is removed, and the seconds of the whole then.

    Raises:
        UsageError: the budget is below what cannot be removed.
    """
    layers = _options(choices, table, at_least)
    fixed = table.whole - sum(table.seconds[layer.path][-1][1] for layer in layers)
    least = fixed + sum(float(layer.costs.min()) for layer in layers)
    if least > seconds:
        cause = f"{least:.4g} of {table.whole:.4g} seconds cannot be removed, and the budget is {seconds:.4g}"
        raise UsageError(cause, hint=f"give at least {least / table.whole:.4f} of the whole")
    costs, scores = np.array([fixed]), np.array([0.0])
    pointers: list[tuple[np.ndarray, np.ndarray]] = []
    rest = sum(float(layer.costs.min()) for layer in layers)
    for layer in layers:
        rest -= float(layer.costs.min())
        total = (costs[:, None] + layer.costs[None]).ravel()
        score = (scores[:, None] + layer.scores[None]).ravel()
        kept = _best(total, score, (seconds - rest) * (1 + 1e-12), (seconds - fixed) / buckets)
        pointers.append((kept // len(layer.costs), kept % len(layer.costs)))
        costs, scores = total[kept], score[kept]
    state = int(np.lexsort((costs, -scores))[0])
    spent = float(costs[state])
    removed = []
    for layer, (before, option) in zip(reversed(layers), reversed(pointers), strict=True):
        removed += layer.ranked[layer.counts[option[state]] :]
        state = int(before[state])
    order = {id(choice): index for index, choice in enumerate(choices)}
    return sorted(removed, key=lambda choice: order[id(choice)]), spent


def _options(choices: Sequence[Choice], table: LatencyTable, at_least: int) -> list[_Options]:
    by_path: dict[str, list[Choice]] = defaultdict(list)
    for choice in choices:
        by_path[choice.path].append(choice)
    layers = []
    for path, members in by_path.items():
        ranked = sorted(members, key=lambda choice: (-choice.score / len(choice.members), choice.members))
        first = min(at_least, len(ranked))
        counts = np.unique(
            np.linspace(first, len(ranked), min(_MOST_WIDTHS, len(ranked) - first + 1)).round().astype(int)
        )
        widths = np.concatenate([[0], np.cumsum([len(choice.members) for choice in ranked])])
        scores = np.concatenate([[0.0], np.cumsum([choice.score for choice in ranked])])
        costs = np.array([table.at(path, int(widths[count])) for count in counts])
        layers.append(_Options(path, ranked, counts, costs, scores[counts]))
    return layers


def _best(costs: np.ndarray, scores: np.ndarray, most: float, width: float) -> np.ndarray:
    """Return indices of states to go on with: the best of each bucket, better than all that cost less."""
    order = np.lexsort((-scores, costs))
    order = order[costs[order] <= most]
    better = np.maximum.accumulate(scores[order])
    rises = np.concatenate([[True], better[1:] > better[:-1]])
    front = order[rises]
    if width <= 0:
        return front
    # of a bucket the last state of the front has the largest score
    buckets = np.floor((costs[front] - costs[front[0]]) / width)
    last = np.concatenate([buckets[1:] != buckets[:-1], [True]])
    last[0] = True
    return front[last]
