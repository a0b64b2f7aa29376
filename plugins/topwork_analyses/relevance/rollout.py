"""Attention rollout and attention flow (Abnar and Zuidema 2020, "Quantifying attention flow in transformers").

Entry points: `rollout` and `flow`. Both take the mean over the attention heads of each layer and mix it with the
identity for the residual connection; neither sees values, feed-forward networks or what the model is asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch


def with_residual(attention: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """Return share * I + (1 - share) * A with rows that sum to 1.

    Args:
        attention: [..., positions, positions], of one layer.
        share: what the residual connection carries; a half in the paper.
    """
    mixed = (1 - share) * attention + share * torch.eye(attention.shape[-1], dtype=attention.dtype)
    return mixed / mixed.sum(-1, keepdim=True).clamp(min=torch.finfo(mixed.dtype).tiny)


def rollout(attentions: Sequence[torch.Tensor], share: float = 0.5) -> torch.Tensor:
    """Return how much of each input position arrives at each position of the last layer; rows sum to 1.

    Args:
        attentions: of each layer [..., positions, positions], the mean over its attention heads.
        share: see `with_residual`.
    """
    result = with_residual(attentions[0], share)
    for attention in attentions[1:]:
        result = with_residual(attention, share) @ result
    return result


def flow(attentions: Sequence[torch.Tensor], sources: Sequence[int] | None = None, share: float = 0.5) -> torch.Tensor:
    """Return the largest flow from each position of the last layer to each input position; rows sum to 1.

    The graph has a node for each position of each layer and capacities of `with_residual`. A flow is computed for each
    of positions squared pairs (Edmonds and Karp 1972): for few positions only.

    Args:
        attentions: of each layer [positions, positions].
        sources: positions of the last layer that are wanted; the rows of the others stay 0. None: all.
        share: see `with_residual`.

    Returns:
        [positions of the last layer, input positions].
    """
    layers = [with_residual(attention.double(), share) for attention in attentions]
    size = layers[0].shape[-1]
    result = torch.zeros(size, size, dtype=torch.float64)
    for source in range(size) if sources is None else sources:
        for target in range(size):
            result[source, target] = largest_flow(layers, source, target)
    return result / result.sum(-1, keepdim=True).clamp(min=torch.finfo(result.dtype).tiny)


def largest_flow(layers: Sequence[torch.Tensor], source: int, target: int) -> float:
    """Return the largest flow from a position behind the last layer to one before the first.

    Args:
        layers: capacities of each layer [positions, positions], from row to column, the first layer first.
        source: position behind the last layer.
        target: input position.
    """
    size, depth = layers[0].shape[-1], len(layers)
    left: list[dict[int, float]] = [{} for _ in range((depth + 1) * size)]
    for layer, capacities in enumerate(layers):
        for row, values in enumerate(capacities.tolist()):
            for column, value in enumerate(values):
                if value > 0:
                    left[(layer + 1) * size + row][layer * size + column] = value
    start, total = depth * size + source, 0.0
    while (path := _shortest(left, start, target)) is not None:
        amount = min(left[node][following] for node, following in path)
        total += amount
        for node, following in path:
            left[node][following] -= amount
            left[following][node] = left[following].get(node, 0.0) + amount
    return total


def _shortest(left: Sequence[dict[int, float]], start: int, target: int) -> list[tuple[int, int]] | None:
    """Edges of the shortest way with capacity left."""
    before = {start: start}
    waiting = deque([start])
    while waiting and target not in before:
        node = waiting.popleft()
        for following, capacity in left[node].items():
            if capacity > 1e-12 and following not in before:
                before[following] = node
                waiting.append(following)
    if target not in before:
        return None
    path, node = [], target
    while node != start:
        path.append((before[node], node))
        node = before[node]
    return path
