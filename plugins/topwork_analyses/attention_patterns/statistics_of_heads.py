"""Statistics of attention heads over rows: means with intervals, in memory that does not grow with the rows.

Entry points: `head_statistics` (the weights of one row -> numbers of each attention head) and `Means`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from topwork import Json
from topwork_analyses.attention_patterns.key_sets import KeySet
from topwork_lens.capture.reductions import entropy

#: a head that spreads attention like this share of the entropy of uniform attention is broad: 3.8 nats of ln 128, the
#: threshold of Clark et al. (2019), figure 4, for their inputs of 128 tokens
BROAD = 0.78
#: a head that looks at fewer keys than this (e to its entropy) is narrow
NARROW_KEYS = 2.0
#: shares of attention above which a head is named after its keys (Clark et al. 2019, figure 2 and their notebook)
SHARES = {"previous": 0.5, "next": 0.5, "self": 0.5}
SPECIAL_SHARE = 0.6


def head_statistics(weights: torch.Tensor, valid: torch.Tensor, sets: Sequence[KeySet]) -> dict[str, torch.Tensor]:
    """Reduce the attention weights of one layer and item to numbers of each attention head.

    "entropy": mean over queries, in nats (Clark et al. 2019, section 3.3); "breadth": entropy divided by that of
    uniform attention over the same keys; "confidence": mean largest weight (Voita et al. 2019); "share NAME": of
    attention on a set of keys; "uniform NAME": the share that uniform attention would give it. The keys that a query
    may attend to are those that some attention head gives more than 0.

    Args:
        weights: [heads, queries, keys].
        valid: [queries] booleans, queries that are no padding.
        sets: sets of keys.

    Returns:
        [heads] by name, float64.
    """
    heads, queries, keys = weights.shape
    count = float(valid.sum())
    statistics: dict[str, torch.Tensor] = {}
    if not count or not heads:
        return statistics
    chosen = valid.to(weights)
    allowed = (weights.amax(0) > 0) & valid[:, None]
    sizes = allowed.sum(-1).clamp(min=1)
    by_query = entropy(weights)
    limits = sizes.to(weights).log()
    statistics["entropy"] = by_query @ chosen / count
    several = chosen * (sizes > 1)
    if float(several.sum()):
        statistics["breadth"] = (by_query / limits.clamp(min=1e-9)) @ several / several.sum()
    statistics["confidence"] = weights.amax(-1) @ chosen / count
    flat = weights.reshape(heads, queries * keys)
    for key_set in sets:
        meant = valid if key_set.queries is None else valid & key_set.queries.to(valid.device)
        number = float(meant.sum())
        if not number:
            continue
        mask = key_set.mask.to(weights.device) & meant[:, None]
        statistics[f"share {key_set.name}"] = flat @ mask.reshape(-1).to(weights) / number
        uniform = ((mask & allowed).sum(-1) / sizes).sum() / number
        statistics[f"uniform {key_set.name}"] = uniform.expand(heads)
    return {name: values.double().cpu() for name, values in statistics.items()}


def gradient_statistics(gradient: torch.Tensor, valid: torch.Tensor, sets: Sequence[KeySet]) -> dict[str, torch.Tensor]:
    """Return the mean size of the gradient of the loss for attention on each set of keys (Clark et al. 2019, fig. 3).

    Args:
        gradient: [heads, queries, keys] of the weights.
        valid: [queries] booleans.
        sets: sets of keys.

    Returns:
        [heads] by "gradient NAME"; "gradient anywhere" over all keys.
    """
    heads = len(gradient)
    flat = gradient.abs().reshape(heads, -1)
    statistics = {}
    everything = KeySet("anywhere", torch.ones(gradient.shape[1:], dtype=torch.bool))
    for key_set in (everything, *sets):
        meant = valid if key_set.queries is None else valid & key_set.queries.to(valid.device)
        mask = (key_set.mask.to(gradient.device) & meant[:, None]).reshape(-1)
        if bool(mask.any()):
            statistics[f"gradient {key_set.name}"] = (flat @ mask.to(flat) / mask.sum()).double().cpu()
    return statistics


@dataclass
class _Sum:
    """Count, mean and sum of squared deviations of rows (Welford 1962; merged as in Chan et al. 1979)."""

    count: int
    mean: torch.Tensor
    deviation: torch.Tensor

    def merged(self, other: _Sum) -> _Sum:
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * other.count / count
        deviation = self.deviation + other.deviation + delta**2 * self.count * other.count / count
        return _Sum(count, mean, deviation)


class Means:
    """Means over rows, by layer path and name of the statistic; those of several processes add up."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], _Sum] = {}

    def add(self, path: str, statistics: Mapping[str, torch.Tensor]) -> None:
        """Add the numbers of one row: [heads] by name. Numbers that are not finite are left out with their row."""
        for name, values in statistics.items():
            if bool(values.isfinite().all()):
                self._add((path, name), _Sum(1, values.clone(), torch.zeros_like(values)))

    def _add(self, key: tuple[str, str], sums: _Sum) -> None:
        self._sums[key] = self._sums[key].merged(sums) if key in self._sums else sums

    def merge(self, other: Means) -> None:
        """Take over the rows of another process."""
        for key, sums in other._sums.items():
            self._add(key, sums)

    def names(self, path: str | None = None) -> list[str]:
        """Return the names of the statistics, of one layer or of all."""
        return list(dict.fromkeys(name for known, name in self._sums if path in (None, known)))

    def mean(self, path: str, name: str) -> list[float] | None:
        """Return [heads]; None where there is none."""
        sums = self._sums.get((path, name))
        return None if sums is None else sums.mean.tolist()

    def half_width(self, path: str, name: str, confidence: float = 0.95) -> list[float] | None:
        """Return half the width of the t interval of each mean over rows; None with fewer than two rows."""
        from scipy import stats

        sums = self._sums.get((path, name))
        if sums is None or sums.count < 2:
            return None
        factor = stats.t.ppf((1 + confidence) / 2, sums.count - 1) / math.sqrt(sums.count * (sums.count - 1))
        return (factor * sums.deviation.clamp(min=0).sqrt()).tolist()

    def rows(self, path: str, name: str) -> int:
        """Return how many rows a mean is of."""
        sums = self._sums.get((path, name))
        return 0 if sums is None else sums.count


def pattern(statistics: Mapping[str, float], special: Sequence[str]) -> str:
    """Name the pattern of an attention head: "previous", "next", "self", a special token, "broad", "narrow" or "".

    Thresholds are those of Clark et al. (2019): half of attention on an offset, .6 on a special token.

    Args:
        statistics: means by name.
        special: names of sets of special tokens.
    """
    for name, least in (*SHARES.items(), *((name, SPECIAL_SHARE) for name in special)):
        if statistics.get(f"share {name}", 0.0) > least:
            return name
    if statistics.get("breadth", 0.0) >= BROAD:
        return "broad"
    return "narrow" if statistics.get("entropy", math.inf) < math.log(NARROW_KEYS) else ""


def json_of(means: Means, path: str, kept: Sequence[int], heads: int) -> dict[str, Json]:
    """Return the means of a layer: lists by original index of an attention head, None for pruned ones."""
    entry: dict[str, Json] = {}
    for name in means.names(path):
        values = means.mean(path, name)
        if values is None:
            continue
        if name.startswith("uniform "):
            entry[name] = values[0]
            continue
        by_index: list[float | None] = [None] * heads
        for index, value in zip(kept, values, strict=True):
            by_index[index] = value
        entry[name] = by_index
    return entry
