"""Reductions of a block of attention weights, after which the weights themselves can be dropped.

Entry point: `Reducer`. A reduction takes weights [items, heads, queries, keys] and returns one number for each query
(or each key).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Reduction = Callable[[torch.Tensor, torch.Tensor | None, int], torch.Tensor]


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Return -sum p ln p over the keys, in nats, with 0 ln 0 = 0 (Clark et al. 2019, section 3.3)."""
    # ln(p + tiny) is ln p wherever p counts, and twice as fast as a logarithm that knows about 0
    return (weights + torch.finfo(weights.dtype).tiny).log_().mul_(weights).sum(-1).neg_()


def information(weights: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Return ln n - entropy in nats, n the number of keys that may be attended to: 0 for uniform attention."""
    if allowed is None:
        count = torch.tensor(float(weights.shape[-1]), device=weights.device)
    else:
        count = allowed.expand(*allowed.shape[:-1], weights.shape[-1]).sum(-1).clamp(min=1).to(weights.dtype)
    return count.log() - entropy(weights)


def distance(weights: torch.Tensor, places: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return the mean distance between query and key, weighted by attention, in positions (or patches).

    Args:
        weights: [items, heads, queries, keys].
        places: [keys, d] coordinates; NaN for positions that stand nowhere (class tokens): they are left out, and
            the other weights are scaled to sum to 1. For a query that stands nowhere the answer is NaN.
        queries: [queries, d] coordinates of the queries.
    """
    between = (queries[:, None, :] - places[None, :, :]).to(weights.dtype).norm(dim=-1)
    nowhere = places.isnan().any(-1)
    if bool(nowhere.any()):
        weights = weights.masked_fill(nowhere, 0)
    mean = torch.einsum("...qk,qk->...q", weights, between.nan_to_num()) / weights.sum(-1)
    return mean.masked_fill(queries.isnan().any(-1), float("nan"))


def mass(weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the share of attention that goes to the chosen keys.

    Args:
        weights: [items, heads, queries, keys].
        chosen: [items or 1, keys], or [items or 1, queries, keys], booleans.
    """
    if chosen.dim() == 2:
        return (weights @ chosen[:, None, :, None].to(weights)).squeeze(-1)
    return (weights * chosen[:, None].to(weights)).sum(-1)


def quantised(weights: torch.Tensor) -> torch.Tensor:
    """Return weights as 8-bit integers, 255 times the weight: exact to 1/510, a quarter of the memory of float32."""
    return (weights * 255).round().clamp(0, 255).to(torch.uint8)


def in_full(weights: torch.Tensor) -> torch.Tensor:
    """Return weights in at least float32: sums over hundreds of keys need it, and so do distances above 256."""
    return weights.float() if weights.dtype in (torch.bfloat16, torch.float16) else weights


class Reducer:
    """Reductions of the weights of a layer, block by block. Half precision is reduced in float32.

    Args:
        names: any of "entropy", "information", "distance", "mass", "argmax", "max", "mean", "weights",
            "quantised".
        chosen: [items or 1, keys] booleans, the keys for "mass".
        shifts: further keys for "mass": positions counted from the query.
        places: [positions, d] coordinates for "distance"; by default positions count 0, 1, 2 ...
        offset: the position of the first query among the keys.
    """

    KNOWN = ("entropy", "information", "distance", "mass", "argmax", "max", "mean", "weights", "quantised")

    def __init__(
        self,
        names: Sequence[str],
        *,
        chosen: torch.Tensor | None = None,
        shifts: Sequence[int] = (),
        places: torch.Tensor | None = None,
        offset: int = 0,
    ) -> None:
        self.names, self.chosen, self.shifts = tuple(names), chosen, tuple(shifts)
        self.places, self.offset = places, offset

    def block(
        self, weights: torch.Tensor, allowed: torch.Tensor | None, start: int, shape: tuple[int, int, int, int]
    ) -> dict[str, torch.Tensor]:
        """Reduce one block of queries that begins at query `start`; returns tensors by name."""
        reduced: dict[str, torch.Tensor] = {}
        given, weights = weights, in_full(weights)
        for name in self.names:
            if name == "entropy":
                reduced[name] = entropy(weights)
            elif name == "information":
                reduced[name] = information(weights, allowed)
            elif name == "distance":
                reduced[name] = self._distance(weights, start, shape)
            elif name == "mass":
                reduced[name] = mass(weights, self._chosen(weights, start))
            elif name == "argmax":
                reduced[name] = weights.argmax(-1)
            elif name == "max":
                reduced[name] = weights.amax(-1)
            elif name == "weights":
                reduced[name] = given
            elif name == "quantised":
                reduced[name] = quantised(weights)
        return reduced

    def _chosen(self, weights: torch.Tensor, start: int) -> torch.Tensor:
        queries, keys = weights.shape[-2:]
        chosen = torch.zeros(1, keys, dtype=torch.bool) if self.chosen is None else self.chosen
        chosen = chosen.to(weights.device)
        if not self.shifts:
            return chosen
        rows = torch.arange(start, start + queries, device=chosen.device)[:, None] + self.offset
        positions = torch.arange(keys, device=chosen.device)[None]
        for_query = [positions == rows + shift for shift in self.shifts]
        return torch.stack(for_query).any(0) | chosen[:, None]

    def _distance(self, weights: torch.Tensor, start: int, shape: tuple[int, int, int, int]) -> torch.Tensor:
        chosen, places = self._coordinates(start, start + weights.shape[2], shape)
        return distance(weights, places.to(weights.device), chosen.to(weights.device))

    def _coordinates(
        self, start: int, stop: int, shape: tuple[int, int, int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return coordinates of some queries and of all keys."""
        places = torch.arange(shape[3], dtype=torch.float64)[:, None] if self.places is None else self.places
        return places[self.offset + start : self.offset + stop], places

    def between(
        self, start: int, stop: int, shape: tuple[int, int, int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what "distance" needs where there are no weights.

        Returns:
            [queries, keys]: distances of some queries from all keys, 0 where one of them stands nowhere; and [keys]: 1
            for keys that stand somewhere, or None when all do.
        """
        chosen, places = self._coordinates(start, stop, shape)
        first = chosen.nan_to_num()[:1]
        from_first, to = ((coordinates - first).float() for coordinates in (chosen, places))
        away = from_first - to.T if to.shape[1] == 1 else from_first[:, None] - to[None]
        away = (away.abs_() if to.shape[1] == 1 else away.norm(dim=-1)).nan_to_num_()
        nowhere = places.isnan().any(-1)
        return away, (~nowhere).float() if bool(nowhere.any()) else None

    def of_somewhere(self, mean: torch.Tensor, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """Return mean distances [items, heads, queries] with NaN for queries that stand nowhere."""
        return mean.masked_fill(self._coordinates(0, shape[2], shape)[0].isnan().any(-1), float("nan"))
