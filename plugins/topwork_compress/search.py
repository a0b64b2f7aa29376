"""Search for what a budget keeps: the largest kept score whose cost stays below the budget.

Entry point: `search`. Kwon et al. 2022 (section 4.1) try every number of kept heads, none included, and fill the rest
of the budget with neurons; here units may cost differently, so they are ranked by score per cost, and what is left of
the budget is filled with whatever still fits.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from topwork import UsageError
from topwork_compress.units import Choice

Normalise = Literal["none", "kind", "cost"]


def search(choices: Sequence[Choice], budget: int, fixed: int, at_least: int = 1) -> tuple[list[Choice], int]:
    """Choose what is kept.

    Args:
        choices: everything that can be kept or removed.
        budget: the largest cost of the whole.
        fixed: cost of everything else.
        at_least: units that every layer and block keeps.

    Returns:
        What is removed, and the cost of the whole then.

    Raises:
        UsageError: the budget is below what cannot be removed.
    """
    forced = _forced(choices, at_least)
    start = fixed + sum(choices[index].cost for index in forced)
    total = fixed + sum(choice.cost for choice in choices)
    if start > budget:
        cause = f"{start} of {total} cannot be removed, and the budget is {budget}"
        raise UsageError(cause, hint=f"give at least {start / total:.4f} of the whole")
    if total <= budget:
        return [], total
    free = [index for index in range(len(choices)) if index not in forced]
    heads = _ranked(choices, [index for index in free if choices[index].kind == "heads"])
    neurons = _ranked(choices, [index for index in free if choices[index].kind == "neurons"])
    costs = list(itertools.accumulate((choices[index].cost for index in neurons), initial=0))
    scores = list(itertools.accumulate((choices[index].score for index in neurons), initial=0.0))
    best: tuple[float, int, int] | None = None
    spent, score = start, 0.0
    for count in range(len(heads) + 1):
        if count:
            spent += choices[heads[count - 1]].cost
            score += choices[heads[count - 1]].score
        if spent > budget:
            break
        filled = bisect.bisect_right(costs, budget - spent) - 1
        if best is None or score + scores[filled] > best[0]:
            best = (score + scores[filled], count, filled)
    assert best is not None
    kept = forced | set(heads[: best[1]]) | set(neurons[: best[2]])
    spent = fixed + sum(choices[index].cost for index in kept)
    for index in _ranked(choices, [index for index in free if index not in kept]):
        if spent + choices[index].cost <= budget:
            kept.add(index)
            spent += choices[index].cost
    return [choice for index, choice in enumerate(choices) if index not in kept], spent


def _ranked(choices: Sequence[Choice], indices: Sequence[int]) -> list[int]:
    """Return indices by falling score per cost; equal ones stay in order."""
    return sorted(indices, key=lambda index: (-choices[index].score / max(1, choices[index].cost), index))


def _forced(choices: Sequence[Choice], at_least: int) -> set[int]:
    """Return the best units of every layer and block, which stay."""
    by_path: dict[str, list[int]] = defaultdict(list)
    for index, choice in enumerate(choices):
        by_path[choice.path].append(index)
    return {index for indices in by_path.values() for index in _ranked(choices, indices)[:at_least]}


def normalised(choices: Sequence[Choice], how: Normalise) -> list[Choice]:
    """Return choices with scores that kinds have in common.

    "kind" divides by the mean score per cost of all heads, or of all neurons; "cost" takes scores as scores per cost.
    """
    if how == "none":
        return list(choices)
    if how == "cost":
        return [replace(choice, score=choice.score * choice.cost) for choice in choices]
    means: dict[str, float] = {}
    for kind in ("heads", "neurons"):
        alike = [choice for choice in choices if choice.kind == kind]
        means[kind] = sum(choice.score for choice in alike) / max(1, sum(choice.cost for choice in alike)) or 1.0
    return [replace(choice, score=choice.score / means[choice.kind]) for choice in choices]


def in_multiples(choices: Sequence[Choice], multiple: int, of_path: Mapping[str, int] | None = None) -> list[Choice]:
    """Join neurons of one block, the best first, to units of `multiple` neurons; the last unit takes what is left over.

    The width of every block is then a multiple, but for one that keeps all of its neurons.

    Args:
        choices: one for each head and neuron.
        multiple: of all blocks.
        of_path: of single blocks besides, by path.
    """
    multiples = {path: math.lcm(multiple, least) for path, least in (of_path or {}).items()}
    if max(multiple, *multiples.values(), 1) <= 1:
        return list(choices)
    by_path: Mapping[str, list[Choice]] = defaultdict(list)
    result = [choice for choice in choices if choice.kind == "heads"]
    for choice in choices:
        if choice.kind == "neurons":
            by_path[choice.path].append(choice)
    for path, members in by_path.items():
        ranked = sorted(members, key=lambda choice: (-choice.score, choice.members))
        step = multiples.get(path, multiple)
        count = max(1, len(ranked) // step)
        for index in range(count):
            part = ranked[index * step : (index + 1) * step if index + 1 < count else None]
            positions = tuple(sorted(position for choice in part for position in choice.members))
            cost, score = sum(choice.cost for choice in part), sum(choice.score for choice in part)
            result.append(replace(part[0], members=positions, cost=cost, score=score))
    return result
