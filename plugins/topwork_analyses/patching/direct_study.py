"""Direct attribution over rows of a role: contributions of every write to the residual stream, with intervals.

Entry point: `DirectStudy`. Contributions are linear in the writes; what of the scalar they do not explain (biases, the
curvature of a loss) is the remainder, which is part of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import nn

from topwork import AttentionLayer, Batch, Json, Task
from topwork_analyses.patching.direct import DirectAttribution, direct_attribution_of
from topwork_analyses.scalars.named import RowScalar
from topwork_analyses.statistics.bootstrap import mean_intervals
from topwork_analyses.statistics.row_table import RowTable
from topwork_lens.layers.discovery import numbered
from topwork_lens.look import Look
from topwork_lens.refusals import refuse

if TYPE_CHECKING:
    from topwork import Run
    from topwork_analyses.patching.options import DirectOptions
    from topwork_analyses.scalars.options import ScalarOptions


class DirectStudy:
    """Contributions on the rows of a run.

    Args:
        stage: its options.
        run: the run.
    """

    def __init__(self, stage: DirectOptions, run: Run) -> None:
        self.stage, self.run, self.look = stage, run, Look(run.model, run.plugins)
        if not self.look.layers:
            raise refuse("unknown_layout", "no attention layer was found in this model", place=f"stage {stage.name}")
        #: names of the parts: of an attention head (path, original index)
        self.names: list[Any] = []
        #: [rows, 2 + parts]: the scalar, the remainder, and the contribution of each part
        self.table = numpy.zeros((0, 2))

    def add_rows(self) -> None:
        """Attribute the scalar of every row.

        Raises:
            Refused: the residual stream of the model is no sum of writes.
        """
        task, model = self.run.task, self.run.model
        lines: RowTable | None = None
        batches = self.run.loss_batches(self.stage.role, limit=self.stage.rows, batch_size=1)
        kept = {layer.path: layer.kept for layer in self.look.layers}
        for batch in self.run.progress(batches, label="direct attribution"):
            scalar = partial(_scalar, task, model, batch, self.stage)
            attributed = direct_attribution_of(self.look, scalar, self.stage.stack)
            parts = _parts(attributed, kept)
            lines = lines or RowTable(2 + len(parts))
            self.names = list(parts)
            lines.add(
                min(batch.row_numbers),
                [float(attributed.scalar.sum()), float(attributed.remainder.sum()), *parts.values()],
            )
        gathered = [(names, table) for names, table in self.run.process.gather((self.names, lines)) if table]
        if gathered:
            self.names, self.table = gathered[0][0], RowTable.joined([table for _, table in gathered])
        self.means = dict(zip(self.names, self.table[:, 2:].mean(0).tolist()))

    def result(self) -> dict[str, Json]:
        """Return the result of the stage."""
        layers = {key: layer for key, layer in numbered(self.look.layers).items() if self._heads(layer)}
        scalars, remainders = self.table[:, 0], self.table[:, 1]
        spread = numpy.abs(scalars).mean()
        return {
            "rows": len(self.table),
            "heads": sum(len(self._heads(layer)) for layer in layers.values()),
            "explained": 1 - float(numpy.abs(remainders).mean() / spread) if spread > 0 else None,
            "metrics": {"scalar": float(scalars.mean()), "remainder": float(remainders.mean())},
            "measures": "part",
            "role": self.stage.role,
            "layers": [
                {
                    "group": group,
                    "number": number,
                    "path": layer.path,
                    "kind": layer.kind,
                    "side": layer.side,
                    "heads": layer.heads,
                    "kept": list(layer.kept),
                    "contribution": self._by_index(layer),
                }
                for (group, number), layer in layers.items()
            ],
            "head_maps": [{"key": "contribution", "title": "Direct contribution of each attention head"}],
            "tables": {"Contributions": self._lines(layers)},
        }

    def _heads(self, layer: AttentionLayer) -> list[int]:
        return [head for head in layer.kept if (layer.path, head) in self.means]

    def _by_index(self, layer: AttentionLayer) -> list[float | None]:
        values: list[float | None] = [None] * layer.heads
        for head in self._heads(layer):
            values[head] = self.means[layer.path, head]
        return values

    def _lines(self, layers: dict[tuple[str, int], AttentionLayer]) -> list[dict[str, Json]]:
        """Return a line for each part, the largest contribution first, with its interval over rows."""
        names = {layer.path: f"{group} {number}" for (group, number), layer in layers.items()}
        order = sorted(self.names, key=lambda name: -abs(self.means[name]))
        table = self.table[:, [2 + self.names.index(name) for name in order]]
        intervals: list[Any] = [None] * len(order)
        if len(table) > 1:
            options: dict[str, Any] = {"confidence": self.stage.confidence, "draws": self.stage.draws}
            intervals = list(mean_intervals(table, seed=self.run.seed, **options))
        lines = []
        for name, values, interval in zip(order, table.T, intervals, strict=True):
            path, part = (name, "") if isinstance(name, str) else name
            line: dict[str, Json] = {"layer": names.get(path, path), "part": part if isinstance(part, str) else ""}
            line |= {"head": part if isinstance(part, int) else None, "contribution": float(values.mean())}
            if interval is not None:
                line |= {"low": interval.low, "high": interval.high, "p": interval.p}
            lines.append(line)
        return lines


def _scalar(task: Task, model: nn.Module, batch: Batch, options: ScalarOptions) -> torch.Tensor:
    return RowScalar(task, model, batch, options)()[None]


def _parts(attributed: DirectAttribution, kept: Mapping[str, Sequence[int]]) -> dict[Any, float]:
    """Return the contribution of each part to the scalar of one row, by its name."""
    parts: dict[Any, float] = {"embeddings": float(attributed.embeddings.sum())}
    for path, heads in attributed.heads.items():
        parts |= {(path, head): value for head, value in zip(kept[path], heads.sum(0).tolist(), strict=True)}
    parts |= {(path, "bias"): float(value.sum()) for path, value in attributed.attention_biases.items()}
    return parts | {(path, "network"): float(value.sum()) for path, value in attributed.networks.items()}
