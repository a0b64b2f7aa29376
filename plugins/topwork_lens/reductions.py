"""What a block of attention weights is reduced to, so that the weights themselves can be dropped.

Every reduction takes weights [items, heads, queries, keys] and answers one number for each query (or each key).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from topwork import UsageError

Reduction = Callable[[torch.Tensor, torch.Tensor | None, int], torch.Tensor]


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """-sum p ln p over the keys, in nats, with 0 ln 0 = 0 (Clark et al. 2019, section 3.3)."""
    # ln(p + tiny) is ln p wherever p counts, and twice as fast as a logarithm that knows about 0
    return (weights + torch.finfo(weights.dtype).tiny).log_().mul_(weights).sum(-1).neg_()


def information(weights: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """ln n - entropy in nats, n the number of keys that may be attended to: 0 for uniform attention."""
    if allowed is None:
        count = torch.tensor(float(weights.shape[-1]), device=weights.device)
    else:
        count = allowed.expand(*allowed.shape[:-1], weights.shape[-1]).sum(-1).clamp(min=1).to(weights.dtype)
    return count.log() - entropy(weights)


def distance(weights: torch.Tensor, places: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Mean distance between query and key, weighted by attention, in positions (or patches).

    Args:
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


def mass(weights: torch.Tensor, keys: Sequence[int]) -> torch.Tensor:
    """The share of attention that goes to the chosen keys."""
    return weights[..., list(keys)].sum(-1)


def quantised(weights: torch.Tensor) -> torch.Tensor:
    """Weights as 8-bit integers, 255 times the weight: exact to 1/510, a quarter of the memory of float32."""
    return (weights * 255).round().clamp(0, 255).to(torch.uint8)


class Reducer:
    """Reduces the weights of a layer block by block.

    Args:
        names: any of "entropy", "information", "distance", "mass", "argmax", "max", "mean", "weights",
            "quantised".
        keys: positions for "mass".
        places: [positions, d] coordinates for "distance"; by default positions count 0, 1, 2 ...
    """

    KNOWN = ("entropy", "information", "distance", "mass", "argmax", "max", "mean", "weights", "quantised")

    def __init__(self, names: Sequence[str], keys: Sequence[int] | None, places: torch.Tensor | None) -> None:
        if "mass" in names and keys is None:
            raise UsageError("`mass` needs the positions whose share of attention is asked for", mend="give keys=[0]")
        self.names, self.keys, self.places = tuple(names), keys, places

    def block(
        self, weights: torch.Tensor, allowed: torch.Tensor | None, start: int, shape: tuple[int, int, int, int]
    ) -> dict[str, torch.Tensor]:
        """All reductions of one block of queries that begins at query `start`."""
        found: dict[str, torch.Tensor] = {}
        for name in self.names:
            if name == "entropy":
                found[name] = entropy(weights)
            elif name == "information":
                found[name] = information(weights, allowed)
            elif name == "distance":
                found[name] = self._distance(weights, start, shape)
            elif name == "mass":
                found[name] = mass(weights, self.keys or ())
            elif name == "argmax":
                found[name] = weights.argmax(-1)
            elif name == "max":
                found[name] = weights.amax(-1)
            elif name == "weights":
                found[name] = weights
            elif name == "quantised":
                found[name] = quantised(weights)
        return found

    def _distance(self, weights: torch.Tensor, start: int, shape: tuple[int, int, int, int]) -> torch.Tensor:
        queries, keys = shape[2:]
        places = self.places
        if places is None:
            places = torch.arange(keys, dtype=torch.float64)[:, None]
        if places.shape[0] != keys:
            return torch.full(weights.shape[:-1], float("nan"), device=weights.device)
        places = places.to(weights.device)
        # With a key/value cache the queries are the last positions.
        offset = keys - queries if queries < keys else 0
        chosen = places[offset + start : offset + start + weights.shape[2]]
        return distance(weights, places, chosen)
