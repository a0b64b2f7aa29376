"""Metrics of other choices of as many attention heads, beside a schedule, and the curves that show both.

Entry points: `Baselines` (by other scores, and at random) and `charts`. Nothing here decides what a schedule removes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from topwork import AttentionLayer, Json
from topwork_lens.schedule.schedule import Masks, Point
from topwork_lens.scoring.selection import Choice, Importance, choose, choose_random

#: series -> points (share of the attention heads that is removed, metric)
Series = dict[str, list[list[float]]]
CHANCE = "at random"


@dataclass(frozen=True)
class Baselines:
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

    def __call__(self, count: int, metrics: Mapping[str, float]) -> dict[str, Json]:
        """Measure choices of `count` attention heads.

        Args:
            count: number of attention heads that each choice removes.
            metrics: the metric with the schedule's choice, by role: that of every choice when nothing is removed.

        Returns:
            {"others": {name: {role: metric}}, "random": {role: [metrics]}}.
        """
        result: dict[str, Json] = {}
        size = self.choice.sized(count)
        if self.scores:
            masks = {name: choose(self.layers, size, importance) for name, importance in self.scores.items()}
            result["others"] = {name: self._measured(removed, metrics) for name, removed in masks.items()}
        if self.seeds:
            draws = [self._measured(choose_random(self.layers, size, seed), metrics) for seed in self.seeds]
            result["random"] = {role: [draw[role] for draw in draws] for role in self.roles}
        return result

    def _measured(self, masks: Masks, metrics: Mapping[str, float]) -> dict[str, float]:
        return {role: self.measure(masks, role) for role in self.roles} if masks else dict(metrics)


def charts(name: str, points: Sequence[Point], primary: str, roles: Sequence[str]) -> list[dict[str, Json]]:
    """Return the curves of a schedule for the page, one chart for each role.

    Args:
        name: the name of the schedule's own series.
        points: the schedule's measurements, in order.
        primary: the name of the metric.
        roles: roles of the rows that were measured.

    Returns:
        {"title", "x", "series": {name: [[x, y], ...]}, "bands": {name: [[x, lowest, highest], ...]}, "areas": {name:
        mean height}} for each role; the band is that of the random choices.
    """
    result = []
    for role in roles:
        series: Series = {}
        for point in points:
            for series_name, value in _values(name, point, primary, role):
                series.setdefault(series_name, []).append([point.share, value])
        title = f"{primary} on {role} rows, attention heads masked"
        chart = {"title": title, "x": "share of the attention heads that is gone", "series": series}
        if edges := _random_edges(points, role):
            label = next(each for each in series if each.startswith(CHANCE))
            chart["bands"] = {label: edges}
        result.append({**chart, "areas": {label: area(line) for label, line in series.items()}})
    return result


def _random_edges(points: Sequence[Point], role: str) -> list[list[float]]:
    """Return the least and the largest metric of the random choices at each point; empty for a single choice."""
    drawn = [(point.share, point.more.get("random", {}).get(role) or []) for point in points]
    return [[share, min(values), max(values)] for share, values in drawn if len(values) > 1]


def area(points: Sequence[Sequence[float]]) -> float | None:
    """Return the mean height of a curve, by trapezoids; None for a curve of one point."""
    ordered = sorted((x, y) for x, y in points)
    width = ordered[-1][0] - ordered[0][0]
    if not width:
        return None
    return sum((x - w) * (v + y) / 2 for (w, v), (x, y) in pairwise(ordered)) / width


def area_gained(chart: Mapping[str, Json]) -> float | None:
    """Return by how much the first curve of a chart lies above the random one; None without a random curve."""
    areas = list(chart["areas"].items())
    chance = next((height for label, height in areas if label.startswith(CHANCE)), None)
    return None if chance is None or areas[0][1] is None else areas[0][1] - chance


def _values(name: str, point: Point, primary: str, role: str) -> list[tuple[str, float]]:
    values = [(name, point.metric if role == "calibrate" else point.more[f"evaluate_{primary}"])]
    if role == "calibrate" and "recovered" in point.more:
        values.append(("after recovery", point.more["recovered"]))
    values += [(label, by_role[role]) for label, by_role in point.more.get("others", {}).items()]
    if drawn := point.more.get("random", {}).get(role):
        label = f"{CHANCE} (mean of {len(drawn)})" if len(drawn) > 1 else CHANCE
        values.append((label, sum(drawn) / len(drawn)))
    return values
