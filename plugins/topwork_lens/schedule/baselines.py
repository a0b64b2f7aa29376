"""What other choices of as many attention heads would have cost, beside a schedule: by other scores, and at random.

Nothing here chooses: it is measured for the curves that a schedule draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from topwork import AttentionLayer, Json
from topwork_lens.schedule.schedule import Masks, Point, at_random
from topwork_lens.scoring.selection import Choice, Importance, choose

#: series -> points (share of the attention heads that is gone, metric)
Series = dict[str, list[list[float]]]
CHANCE = "at random"


@dataclass(frozen=True)
class Beside:
    """Measures other choices of the same size at every point of a schedule.

    Args:
        layers: the attention layers as they were at the beginning.
        choice: the rules by which attention heads are chosen; its size is not used.
        measure: (masks, role) -> the metric of the model with them masked.
        roles: whose rows are measured: "calibrate", and "evaluate" when that is wanted.
        scores: by name, importances of the whole model: scored once.
        seeds: of the random choices.
    """

    layers: Sequence[AttentionLayer]
    choice: Choice
    measure: Callable[[Masks, str], float]
    roles: Sequence[str]
    scores: Mapping[str, Importance]
    seeds: Sequence[int]

    def __call__(self, removed: int, own: Mapping[str, float]) -> dict[str, Json]:
        """{"others": {name: {role: metric}}, "random": {role: [metrics]}} for choices of `removed` attention heads.

        Args:
            own: the metric with the schedule's own choice, by role: that of every choice when nothing is removed.
        """
        found: dict[str, Json] = {}
        if self.scores:
            size = replace(self.choice, share=None, threshold=None, count=removed)
            masks = {name: choose(self.layers, size, importance) for name, importance in self.scores.items()}
            found["others"] = {name: self._measured(gone, own) for name, gone in masks.items()}
        if self.seeds:
            random = [at_random(self.layers, self.choice, removed, seed) for seed in self.seeds]
            drawn = [self._measured(gone, own) for gone in random]
            found["random"] = {role: [one[role] for one in drawn] for role in self.roles}
        return found

    def _measured(self, gone: Masks, own: Mapping[str, float]) -> dict[str, float]:
        return {role: self.measure(gone, role) for role in self.roles} if gone else dict(own)


def charts(name: str, points: Sequence[Point], primary: str, roles: Sequence[str]) -> list[dict[str, Json]]:
    """The curves of a schedule for the page, one chart for each role: {"title", "x", "series": {name: [[x, y], ...]},
    "areas": {name: mean height}}.

    Args:
        name: what the schedule's own series is called.
    """
    found = []
    for role in roles:
        series: Series = {}
        for point in points:
            for said, value in _values(name, point, primary, role):
                series.setdefault(said, []).append([point.share, value])
        title = f"{primary} on {role} rows, attention heads masked"
        chart = {"title": title, "x": "share of the attention heads that is gone", "series": series}
        found.append({**chart, "areas": {label: area(line) for label, line in series.items()}})
    return found


def area(points: Sequence[Sequence[float]]) -> float | None:
    """The mean height of a curve, by trapezoids; None for a curve of one point."""
    ordered = sorted((x, y) for x, y in points)
    width = ordered[-1][0] - ordered[0][0]
    if not width:
        return None
    return sum((x - w) * (v + y) / 2 for (w, v), (x, y) in pairwise(ordered)) / width


def gained(chart: Mapping[str, Json]) -> float | None:
    """By how much the first curve of a chart lies above the one at random; None when there is no such curve."""
    areas = list(chart["areas"].items())
    chance = next((found for label, found in areas if label.startswith(CHANCE)), None)
    return None if chance is None or areas[0][1] is None else areas[0][1] - chance


def _values(name: str, point: Point, primary: str, role: str) -> list[tuple[str, float]]:
    own = point.metric if role == "calibrate" else point.more[f"evaluate_{primary}"]
    found = [(name, own)]
    if role == "calibrate" and "recovered" in point.more:
        found.append(("after recovery", point.more["recovered"]))
    found += [(other, by_role[role]) for other, by_role in point.more.get("others", {}).items()]
    if drawn := point.more.get("random", {}).get(role):
        label = f"{CHANCE} (mean of {len(drawn)})" if len(drawn) > 1 else CHANCE
        found.append((label, sum(drawn) / len(drawn)))
    return found
