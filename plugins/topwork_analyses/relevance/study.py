"""Relevance over rows: faithfulness of every method beside random orders, and under random weights.

Entry point: `RelevanceStudy`.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from topwork import Batch, Json, Task
from topwork_analyses.relevance.faithfulness import deletion_curve, deletion_gain
from topwork_analyses.relevance.methods import METHODS, RowRelevance, mixes_elsewhere, relevance_of_row
from topwork_analyses.scalars.named import RowScalar
from topwork_analyses.scalars.options import ScalarOptions
from topwork_analyses.statistics.bootstrap import mean_intervals
from topwork_analyses.statistics.correlations import coefficient
from topwork_analyses.statistics.row_table import RowTable
from topwork_lens.look import Look


class RelevanceStudy:
    """Sums of a study, row by row.

    Args:
        task: whose row losses are explained.
        model: in evaluation mode.
        plugins: that describe attention layers.
        steps: points of a deletion curve.
        orders: random orders of each row.
        seed: of the orders and of the random weights.
        randomise: also compare with a model whose weights are in a random order; passing means that relevance changes.
        scalar: what is explained; by default the negative loss of a row.
        with_flow: also by attention flow.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        plugins: Any,
        steps: int,
        orders: int,
        seed: int,
        randomise: bool,
        *,
        scalar: ScalarOptions | None = None,
        with_flow: bool = False,
    ) -> None:
        self.options, self.names = scalar, (*METHODS, "flow") if with_flow else METHODS
        self.task, self.model, self.look = task, model, Look(model, plugins)
        self.steps, self.orders = steps, orders
        self.random = np.random.default_rng(seed)
        self.other = Look(shuffled(model, seed), plugins) if randomise else None
        #: whether positions reach each other outside of attention too, by the first row
        self.mixes: bool | None = None
        self.gains = RowTable(len(self.names) + 1)
        #: deletion curves [methods and chance, points], summed over rows
        self.curves: np.ndarray | None = None
        self.correlations = RowTable(len(self.names))

    def add(self, batch: Batch, special: list[int]) -> dict[str, torch.Tensor]:
        """Explain one row, and return the relevance of its positions by every method.

        Args:
            batch: of one row with one item, in mode "loss".
            special: positions that are not deleted.

        Raises:
            Refused: the model has no attention that can be explained.
        """
        scalar = RowScalar(self.task, self.model, batch, self.options)
        relevance = relevance_of_row(self.look, scalar, "flow" in self.names)
        if self.mixes is None:
            first = next((index for index in range(len(relevance.methods["attention"])) if index not in special), 0)
            self.mixes = mixes_elsewhere(self.look, scalar, relevance.stack, first)
        positions = [index for index in range(len(relevance.methods["attention"])) if index not in set(special)]
        if len(positions) < 2:
            return relevance.methods
        scores = [[-float(values[index]) for index in positions] for values in relevance.methods.values()]
        orders = [[position for _, position in sorted(zip(each, positions))] for each in scores]
        orders += [list(self.random.permutation(positions)) for _ in range(self.orders)]
        curves = [self._curve(scalar, relevance.stack, order) for order in orders]
        measured = [deletion_gain(curve) for curve in curves]
        count = len(self.names)
        self.gains.add(len(self.gains), [*measured[:count], float(np.mean(measured[count:]))])
        shown = np.array([*curves[:count], np.mean(curves[count:], axis=0)])
        self.curves = shown if self.curves is None else self.curves + shown
        if self.other is not None:
            alike = self._with_shuffled_weights(self.other, scalar, relevance, positions)
            self.correlations.add(len(self.correlations), alike)
        return relevance.methods

    def _with_shuffled_weights(
        self, other: Look, scalar: RowScalar, relevance: RowRelevance, positions: list[int]
    ) -> list[float]:
        """Rank correlations of the relevance with that of the model with shuffled weights."""
        shuffled_relevance = relevance_of_row(other, partial(scalar, other.model), "flow" in self.names)
        return [
            coefficient(values[positions], shuffled_relevance.methods[name][positions])
            for name, values in relevance.methods.items()
        ]

    def _curve(self, scalar: RowScalar, stack: str, order: list[int]) -> list[float]:
        def measure() -> float:
            with torch.no_grad():
                return float(scalar())

        return deletion_curve(self.look, stack, order, measure, self.steps)

    def summary(self, confidence: float, draws: int, seed: int) -> list[dict[str, Json]]:
        """Return a line for each method: its gain beside that of random orders and of raw attention, with intervals."""
        gains = self.gains.table()
        chance, raw = gains[:, -1:], gains[:, :1]
        options: dict[str, Any] = {"confidence": confidence, "draws": draws, "seed": seed}
        lines = []
        for index, name in enumerate(self.names):
            line: dict[str, Json] = {"method": name, "deletion": float(gains[:, index].mean())}
            line |= {"random": float(chance.mean())}
            for label, beside in (("above_random", chance), ("above_attention", raw)):
                differences = gains[:, index] - beside[:, 0]
                line[label] = float(differences.mean())
                if len(differences) > 1:
                    bounds = mean_intervals(differences, **options)[0]
                    line |= {f"{label}_low": bounds.low, f"{label}_high": bounds.high}
            if len(self.correlations):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    line["correlation_random_weights"] = float(np.nanmean(self.correlations.table()[:, index]))
            lines.append(line)
        return lines

    def deletion_curves(self) -> dict[str, list[list[float]]]:
        """Return the mean change of the scalar by the share of deleted positions, of every method and of chance."""
        assert self.curves is not None
        changes = (self.curves - self.curves[:, :1]) / len(self.gains)
        shares = np.linspace(0, 1, changes.shape[1]).tolist()
        return {
            name: [list(point) for point in zip(shares, line.tolist(), strict=True)]
            for name, line in zip((*self.names, "random order"), changes, strict=True)
        }


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a model with the numbers of each parameter in a random order (Adebayo et al. 2018)."""
    result = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in result.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return result


def special_positions(task: Task, batch: Batch) -> list[int]:
    """Return the positions of an item that stand for nothing in the input."""
    return list(task.units(batch.items[0]).special)
