"""Direct attribution over rows of a role: contributions of every write to the residual stream, with intervals.

Entry point: `DirectStudy`. Contributions are linear in the writes; what of the scalar they do not explain (biases, the
curvature of a loss) is the remainder, which is part of the result.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import nn

from topwork import AttentionLayer, Batch, Json, Task
from topwork_analyses.patching.direct import direct_attribution_of
from topwork_analyses.scalars.named import RowScalar
from topwork_analyses.statistics.bootstrap import mean_intervals
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
        #: name of a part -> contribution in each row; an attention head is (path, original index)
        self.parts: dict[Any, list[float]] = {}
        self.scalars: list[float] = []
        self.remainders: list[float] = []

    def add_rows(self) -> None:
        """Attribute the scalar of every row.

        Raises:
            Refused: the residual stream of the model is no sum of writes.
        """
        task, model = self.run.task, self.run.model
        lines: list[tuple[int, float, float, list[tuple[Any, float]]]] = []
        batches = self.run.loss_batches(self.stage.role, limit=self.stage.rows, batch_size=1)
        for batch in self.run.progress(batches, label="direct attribution"):
            attributed = direct_attribution_of(
                self.look, partial(_scalar, task, model, batch, self.stage), self.stage.stack
            )
            kept = {layer.path: layer.kept for layer in self.look.layers}
            parts: list[tuple[Any, float]] = [("embeddings", float(attributed.embeddings.sum()))]
            for path, heads in attributed.heads.items():
                values = heads.sum(0).tolist()
                parts += [((path, head), value) for head, value in zip(kept[path], values, strict=True)]
            biases, networks = attributed.attention_biases, attributed.networks
            parts += [((path, "bias"), float(value.sum())) for path, value in biases.items()]
            parts += [((path, "network"), float(value.sum())) for path, value in networks.items()]
            remainder = float(attributed.remainder.sum())
            lines.append((min(batch.row_numbers), float(attributed.scalar.sum()), remainder, parts))
        for _, scalar, remainder, parts in sorted(
            (line for process in self.run.process.gather(lines) for line in process), key=_row
        ):
            self.scalars.append(scalar)
            self.remainders.append(remainder)
            for name, value in parts:
                self.parts.setdefault(name, []).append(value)

    def result(self) -> dict[str, Json]:
        """Return the result of the stage."""
        layers = {key: layer for key, layer in numbered(self.look.layers).items() if self._heads(layer)}
        spread = numpy.abs(self.scalars).mean()
        remainder = float(numpy.mean(self.remainders))
        return {
            "rows": len(self.scalars),
            "heads": sum(len(self._heads(layer)) for layer in layers.values()),
            "explained": 1 - float(numpy.abs(self.remainders).mean() / spread) if spread > 0 else None,
            "metrics": {"scalar": float(numpy.mean(self.scalars)), "remainder": remainder},
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
        return [head for head in layer.kept if (layer.path, head) in self.parts]

    def _by_index(self, layer: AttentionLayer) -> list[float | None]:
        values: list[float | None] = [None] * layer.heads
        for head in self._heads(layer):
            values[head] = float(numpy.mean(self.parts[layer.path, head]))
        return values

    def _lines(self, layers: dict[tuple[str, int], AttentionLayer]) -> list[dict[str, Json]]:
        """Return a line for each part, the largest contribution first, with its interval over rows."""
        names = {layer.path: f"{group} {number}" for (group, number), layer in layers.items()}
        order = sorted(self.parts, key=lambda name: -abs(float(numpy.mean(self.parts[name]))))
        table = numpy.array([self.parts[name] for name in order]).T
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


def _row(line: Any) -> int:
    row: int = line[0]
    return row
