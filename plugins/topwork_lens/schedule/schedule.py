"""Pruning schedules: score, remove some attention heads, measure, and repeat until a limit is reached.

Entry point: `Schedule`. The search runs on the masked model. Masks are nested and every step removes at least one
attention head, so it always ends; the result is the last mask that was within the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from topwork import AttentionLayer, Json
from topwork_lens.flops import Flops
from topwork_lens.scoring.selection import Choice, Importance, choose, in_groups

#: original numbers of attention heads by module path
Masks = dict[str, list[int]]


@dataclass(frozen=True)
class Limits:
    """When a schedule ends; at least one is given.

    Args:
        share: of the attention heads that are removed then.
        flops: of the model's operations that are left then.
        metric: how much of its first value the metric keeps at least (0.9: nine tenths).
    """

    share: float | None = None
    flops: float | None = None
    metric: float | None = None

    def falls(self, metric: float, first: float, higher_is_better: bool) -> bool:
        """Return whether the metric is worse than allowed."""
        if self.metric is None:
            return False
        # `not >=` rather than `<`: a metric that is no number has fallen
        return not (metric >= self.metric * first if higher_is_better else metric * self.metric <= first)


@dataclass
class Point:
    """One point of the curve.

    Args:
        removed: attention heads that are removed.
        share: the same as a share of those at the beginning.
        flops: share of the operations that is left.
        metric: on calibration rows, masked.
        added: attention heads that this step removed, by module path.
        more: further numbers (metric on evaluation rows, after recovery, at random ...).
    """

    removed: int
    share: float
    flops: float
    metric: float
    added: Masks = field(default_factory=dict)
    more: dict[str, Json] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """Return the form that the curve of a stage's result has."""
        plain = {name: getattr(self, name) for name in ("removed", "share", "flops", "metric")}
        return {**plain, **self.more, "added": self.added}


@dataclass
class SearchResult:
    """Outcome of a search.

    Args:
        removed: attention heads that can be removed, by module path.
        curve: what was measured.
        reason: what ended it: "share", "flops", "metric" or "nothing left".
    """

    removed: Masks
    curve: list[Point]
    reason: str


def union(a: Mapping[str, Sequence[int]], b: Mapping[str, Sequence[int]]) -> Masks:
    """Return the mask of everything that either mask has."""
    return {path: sorted({*a.get(path, ()), *b.get(path, ())}) for path in {**a, **b}}


def without(layers: Sequence[AttentionLayer], masks: Mapping[str, Sequence[int]]) -> list[AttentionLayer]:
    """Return the layers without the masked attention heads."""
    return [
        replace(layer, kept=tuple(head for head in layer.kept if head not in masks.get(layer.path, ())))
        for layer in layers
    ]


def count_masked(masks: Mapping[str, Sequence[int]]) -> int:
    """Return the number of attention heads in a mask."""
    return sum(map(len, masks.values()))


class Schedule:
    """A search for attention heads that can be removed.

    Args:
        layers: the attention layers with the attention heads that there are.
        choice: groups, at_least and by; its size is not used.
        step: attention heads removed at once; at least a group, when groups are chosen together.
        limits: when to end.
        flops: operations of the model, per layer.
        measure: masks -> the metric of the masked model.
        score: masks -> importance of the attention heads of the masked model.
        higher_is_better: of the metric.
        iterative: score again at every step instead of once.
        settle: (masks of a step that was measured, its point) -> the metric that counts, after recovery for example;
            None: the measured one counts.
        watch: called with every point.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        choice: Choice,
        step: int,
        limits: Limits,
        flops: Flops,
        measure: Callable[[Masks], float],
        score: Callable[[Masks], Importance],
        *,
        higher_is_better: bool = True,
        iterative: bool = False,
        settle: Callable[[Masks, Point], float] | None = None,
        watch: Callable[[Masks, Point], None] = lambda masks, point: None,
    ) -> None:
        self.layers, self.choice, self.step, self.limits = list(layers), choice, max(1, step), limits
        self.flops, self.measure, self.score = flops, measure, score
        self.higher_is_better, self.iterative, self.settle, self.watch = higher_is_better, iterative, settle, watch
        self.total = sum(len(layer.kept) for layer in layers)
        self.importance: Importance | None = None

    def run(self) -> SearchResult:
        """Search step by step."""
        masks: Masks = {}
        curve = [self._point({}, {})]
        first = curve[0].metric
        while True:
            reason = self._reached(masks)
            added = {} if reason else self._next(masks)
            if reason or not added:
                return SearchResult(masks, curve, reason or "nothing left")
            larger = union(masks, added)
            point = self._point(larger, added)
            metric = self.settle(larger, point) if self.settle else point.metric
            curve.append(point)
            if self.limits.falls(metric, first, self.higher_is_better):
                return SearchResult(masks, curve, "metric")
            masks = larger

    def bisect(self) -> SearchResult:
        """Score once, and search the number of steps by bisection, for a metric that falls with every step."""
        steps: list[Masks] = [{}]
        while not self._reached(steps[-1]) and (added := self._next(steps[-1])):
            steps.append(union(steps[-1], added))
        points = {0: self._point({}, {})}
        first, low, high = points[0].metric, 0, len(steps)
        while high - low > 1:
            middle = (low + high) // 2
            points[middle] = self._point(steps[middle], steps[middle])
            if self.limits.falls(points[middle].metric, first, self.higher_is_better):
                high = middle
            else:
                low = middle
        reason = "metric" if high < len(steps) else self._reached(steps[-1]) or "nothing left"
        return SearchResult(steps[low], [points[index] for index in sorted(points)], reason)

    def _point(self, masks: Masks, added: Masks) -> Point:
        left = self.flops.without(self.layers, masks) / (self.flops.total or 1)
        point = Point(count_masked(masks), count_masked(masks) / (self.total or 1), left, self.measure(masks), added)
        self.watch(masks, point)
        return point

    def _reached(self, masks: Masks) -> str:
        """Return the limit that is reached, or ""."""
        if self.limits.share is not None and count_masked(masks) >= int(self.limits.share * self.total + 1e-9):
            return "share"
        return "flops" if self._is_light(masks) else ""

    def _is_light(self, masks: Masks) -> bool:
        if self.limits.flops is None:
            return False
        return self.flops.without(self.layers, masks) <= self.limits.flops * self.flops.total

    def _smallest_step(self) -> int:
        """Return how many attention heads may have to be removed together."""
        if self.choice.by == "head":
            return 1
        return max(
            (layer.heads // max(1, layer.groups) for layer in in_groups(self.layers, self.choice.groups)), default=1
        )

    def _next(self, masks: Masks) -> Masks:
        """Return what the next step removes: less than a step when that reaches a limit."""
        if self.importance is None or self.iterative:
            self.importance = self.score(masks)
        most = max(self.step, self._smallest_step())
        if self.limits.share is not None:
            most = min(most, int(self.limits.share * self.total + 1e-9) - count_masked(masks))
        left, added = without(self.layers, masks), Masks()
        for size in range(1, most + 1) if self.limits.flops is not None else [most]:
            added = choose(left, self.choice.sized(size), self.importance)
            if self._is_light(union(masks, added)):
                break
        return added
