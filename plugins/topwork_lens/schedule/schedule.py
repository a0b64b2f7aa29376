"""Schedules of pruning: score, take some attention heads away, measure, and so on until a limit is reached.

The search runs on the masked model. Masks are nested, every step takes at least one attention head, so it always ends;
what it answers is the last mask that was within the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from topwork import AttentionLayer, Json
from topwork_lens.flops import Flops
from topwork_lens.scoring.selection import Choice, Importance, choose, choose_random, in_groups

Masks = dict[str, list[int]]


@dataclass(frozen=True)
class Limits:
    """When a schedule ends; at least one is given.

    Args:
        share: of the attention heads that are gone then.
        flops: of the model's operations that are left then.
        metric: how much of its first value the metric keeps at least (0.9: nine tenths).
    """

    share: float | None = None
    flops: float | None = None
    metric: float | None = None

    def falls(self, metric: float, first: float, higher_is_better: bool) -> bool:
        """Whether the metric is worse than it may be."""
        if self.metric is None:
            return False
        # `not >=` rather than `<`: a metric that is no number has fallen
        return not (metric >= self.metric * first if higher_is_better else metric * self.metric <= first)


@dataclass
class Point:
    """One point of the curve.

    Args:
        removed: attention heads that are gone.
        share: the same as a share of those at the beginning.
        flops: share of the operations that is left.
        metric: on calibration rows, masked.
        added: what went in this step, by module path.
        more: further numbers (metric on evaluation rows, after recovery, at random ...).
    """

    removed: int
    share: float
    flops: float
    metric: float
    added: Masks = field(default_factory=dict)
    more: dict[str, Json] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """For the curve of a stage's result."""
        plain = {name: getattr(self, name) for name in ("removed", "share", "flops", "metric")}
        return {**plain, **self.more, "added": self.added}


@dataclass
class Found:
    """What a search found: the masks (by module path), the curve, and why it ended: "share", "flops", "metric" or
    "nothing left"."""

    gone: Masks
    curve: list[Point]
    reason: str


def together(one: Mapping[str, Sequence[int]], other: Mapping[str, Sequence[int]]) -> Masks:
    """Both masks in one."""
    return {path: sorted({*one.get(path, ()), *other.get(path, ())}) for path in {**one, **other}}


def without(layers: Sequence[AttentionLayer], gone: Mapping[str, Sequence[int]]) -> list[AttentionLayer]:
    """The layers without some attention heads."""
    return [replace(one, kept=tuple(n for n in one.kept or () if n not in gone.get(one.path, ()))) for one in layers]


class Schedule:
    """A search for attention heads that can go.

    Args:
        layers: the attention layers with the attention heads that there are.
        choice: groups, at_least and by; its size is not used.
        step: attention heads that go at once; at least a group, when groups go together.
        limits: when to end.
        flops: operations of the model, per layer.
        measure: masks -> the metric of the masked model.
        score: masks -> importance of the attention heads of the masked model.
        higher_is_better: of the metric.
        iterative: score again at every step instead of once.
        settle: called with the masks of a step that was measured; what it answers is the metric that counts (after
            recovery, say). None: the measured one counts.
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
        watch: Callable[[Masks, Point], None] = lambda gone, point: None,
    ) -> None:
        self.layers, self.choice, self.step, self.limits = list(layers), choice, max(1, step), limits
        self.flops, self.measure, self.score = flops, measure, score
        self.higher_is_better, self.iterative, self.settle, self.watch = higher_is_better, iterative, settle, watch
        self.total = sum(len(layer.kept or ()) for layer in layers)
        self.importance: Importance | None = None

    def run(self) -> Found:
        """Step by step."""
        gone: Masks = {}
        curve = [self._point({}, {})]
        first = curve[0].metric
        while True:
            reason = self._reached(gone)
            added = {} if reason else self._next(gone)
            if reason or not added:
                return Found(gone, curve, reason or "nothing left")
            both = together(gone, added)
            point = self._point(both, added)
            counts = self.settle(both, point) if self.settle else point.metric
            curve.append(point)
            if self.limits.falls(counts, first, self.higher_is_better):
                return Found(gone, curve, "metric")
            gone = both

    def bisect(self) -> Found:
        """Scored once, and by bisection of the number of steps: for a metric that falls as attention heads go."""
        masks: list[Masks] = [{}]
        while not self._reached(masks[-1]) and (added := self._next(masks[-1])):
            masks.append(together(masks[-1], added))
        points = {0: self._point({}, {})}
        first, low, high = points[0].metric, 0, len(masks)
        while high - low > 1:
            middle = (low + high) // 2
            points[middle] = self._point(masks[middle], masks[middle])
            if self.limits.falls(points[middle].metric, first, self.higher_is_better):
                high = middle
            else:
                low = middle
        reason = "metric" if high < len(masks) else self._reached(masks[-1]) or "nothing left"
        return Found(masks[low], [points[number] for number in sorted(points)], reason)

    def _point(self, gone: Masks, added: Masks) -> Point:
        removed = sum(map(len, gone.values()))
        left = self.flops.without(self.layers, gone) / (self.flops.total or 1)
        point = Point(removed, removed / (self.total or 1), left, self.measure(gone), added)
        self.watch(gone, point)
        return point

    def _reached(self, gone: Masks) -> str:
        removed = sum(map(len, gone.values()))
        if self.limits.share is not None and removed >= int(self.limits.share * self.total + 1e-9):
            return "share"
        return "flops" if self._light(gone) else ""

    def _light(self, gone: Masks) -> bool:
        if self.limits.flops is None:
            return False
        return self.flops.without(self.layers, gone) <= self.limits.flops * self.flops.total

    def _smallest(self) -> int:
        """Attention heads that may have to go together."""
        if self.choice.by == "head":
            return 1
        return max(
            (layer.heads // max(1, layer.groups) for layer in in_groups(self.layers, self.choice.groups)), default=1
        )

    def _next(self, gone: Masks) -> Masks:
        """What goes next: a step, or less when that reaches a limit."""
        if self.importance is None or self.iterative:
            self.importance = self.score(gone)
        most = max(self.step, self._smallest())
        if self.limits.share is not None:
            most = min(most, int(self.limits.share * self.total + 1e-9) - sum(map(len, gone.values())))
        left, added = without(self.layers, gone), Masks()
        for count in range(1, most + 1) if self.limits.flops is not None else [most]:
            added = choose(left, replace(self.choice, share=None, threshold=None, count=count), self.importance)
            if self._light(together(gone, added)):
                break
        return added


def at_random(layers: Sequence[AttentionLayer], choice: Choice, removed: int, seed: int) -> Masks:
    """As many attention heads at random, under the same rules; with one seed, larger draws contain smaller ones."""
    return choose_random(layers, replace(choice, share=None, threshold=None, count=removed), seed)
