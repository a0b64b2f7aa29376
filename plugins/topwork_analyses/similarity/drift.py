"""Drift by a training or a pruning: similarity of layers and distance of attention heads before and after.

Entry point: `DriftStudy`. Layers are compared by unbiased linear CKA of the mean states of rows, attention heads by the
Jensen-Shannon divergence of their weights, in nats, from 0 to ln 2.
"""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
import torch

from topwork import AttentionLayer, Item, Json, Refused
from topwork_analyses.positions.readers import Reader
from topwork_analyses.positions.spans import Span
from topwork_analyses.probing.states import batch_states
from topwork_analyses.similarity.cka import CkaSums
from topwork_analyses.statistics.bootstrap import mean_intervals
from topwork_analyses.statistics.corrections import holm
from topwork_lens.look import Look

#: rows whose states are compared at a time
BATCH = 64


def attention_divergence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of attention weights, the mean over queries.

    Args:
        before: [heads, queries, keys], rows that sum to 1.
        after: the same of another model.

    Returns:
        [heads], in nats.
    """
    middle = (before + after) / 2
    entropies = [torch.special.entr(weights.double()).sum(-1) for weights in (middle, before, after)]
    return (entropies[0] - (entropies[1] + entropies[2]) / 2).clamp(min=0).mean(-1)


class DriftStudy:
    """Comparison of two models of one kind, row by row.

    Args:
        before: reader for the one model.
        after: reader for the other.
        looks: at what the two readers run.
        stack: path of the stack of layers.
        permutations: random orders of rows for the null of CKA.
        seed: of the orders.
    """

    def __init__(
        self, before: Reader, after: Reader, looks: tuple[Look, Look], stack: str | None, permutations: int, seed: int
    ) -> None:
        self.readers, self.looks, self.stack = (before, after), looks, stack
        self.permutations, self.seed = permutations, seed
        self.waiting: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self.sums: CkaSums | None = None
        #: path of a layer -> divergences of its attention heads, row after row
        self.divergences: dict[str, array[float]] = {}
        self.rows = 0

    def add(self, item: Item) -> None:
        """Add one item.

        Raises:
            Refused: the states cannot be compared.
        """
        pooled = []
        for reader, look in zip(self.readers, self.looks):
            states = batch_states(reader, look, [item], self.stack)[0]
            positions = reader.layout(item, len(states)).positions(Span("whole"))
            pooled.append(states[positions].mean(0))
        if pooled[0].shape[0] != pooled[1].shape[0]:
            cause = f"one model has {len(pooled[0])} states in a stack, the other {len(pooled[1])}"
            raise Refused(cause, reason="unknown_layout")
        for waiting, states in zip(self.waiting, pooled):
            waiting.append(states)
        self.rows += 1
        self._attention(item)
        if len(self.waiting[0]) == 2 * BATCH:
            self._compare(BATCH)

    def _attention(self, item: Item) -> None:
        """Compare the attention heads that both models have."""
        shared = [layer for layer in self.looks[0].layers if layer.form == "dense" and not layer.unseen and layer.kept]
        others = {layer.path: layer for layer in self.looks[1].layers}
        shared = [layer for layer in shared if layer.path in others and others[layer.path].kept == layer.kept]
        if not shared:
            return
        captured = []
        for reader, look in zip(self.readers, self.looks):
            with look.capture("weights", layers=[layer.path for layer in shared]) as seen:
                reader.run([item])
            captured.append(seen)
        for layer in shared:
            if layer.path in captured[0].ran:
                weights = [seen.calls("weights", layer.path)[0][0] for seen in captured]
                self.divergences.setdefault(layer.path, array("d")).extend(attention_divergence(*weights).tolist())

    def _compare(self, count: int) -> None:
        """Add the first waiting rows to the sums."""
        sides = [torch.from_numpy(np.stack(waiting[:count], 1)) for waiting in self.waiting]
        for waiting in self.waiting:
            del waiting[:count]
        if self.sums is None:
            self.sums = CkaSums(len(sides[0]), len(sides[1]), self.permutations, self.seed)
        self.sums.add(list(sides[0]), list(sides[1]))

    def layers(self) -> list[dict[str, Json]]:
        """Return for each layer its similarity to itself in the other model, the null, and p-values.

        p is the share of random orders of the rows that are as similar.

        Raises:
            Refused: fewer than four rows.
        """
        if self.waiting[0]:
            if len(self.waiting[0]) < 4 and self.sums is None:
                raise Refused("similarity of states needs four rows or more", reason="no_weights")
            if len(self.waiting[0]) >= 4:
                self._compare(len(self.waiting[0]))
        assert self.sums is not None
        values, null = self.sums.values().diagonal(), self.sums.null().diagonal(dim1=-2, dim2=-1)
        reached = (null >= values - 1e-12).sum(0)
        p_values = ((reached + 1) / (len(null) + 1)).tolist()
        return [
            {
                "layer": layer,
                "cka": None if math.isnan(float(value)) else float(value),
                "null": float(null[:, layer].mean()) if len(null) else None,
                "p": p_values[layer],
                "p_holm": corrected,
            }
            for layer, (value, corrected) in enumerate(zip(values, holm(p_values)))
        ]

    def heads(self, confidence: float, draws: int, seed: int) -> list[dict[str, Json]]:
        """Return the divergence of each attention head with its interval over rows, the most moved first."""
        lines: list[dict[str, Json]] = []
        options: dict[str, Any] = {"confidence": confidence, "draws": draws, "seed": seed}
        by_path: dict[str, AttentionLayer] = {layer.path: layer for layer in self.looks[0].layers}
        for path, values in self.divergences.items():
            table = np.array(values).reshape(-1, len(by_path[path].kept))
            bounds = mean_intervals(table, **options) if len(table) > 1 else [None] * table.shape[1]
            for index, interval in enumerate(bounds):
                line: dict[str, Json] = {"layer": path, "head": by_path[path].kept[index]}
                line["divergence"] = float(table[:, index].mean())
                if interval is not None:
                    line |= {"low": interval.low, "high": interval.high}
                lines.append(line)
        return sorted(lines, key=lambda line: -line["divergence"])
