"""The stage `relevance`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import Json, UsageError
from topwork_analyses.scalars.options import ScalarOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from topwork import Run, Units


_MIXES = (
    "positions reach each other outside of attention too (by convolutions, recurrences or state spaces): attention,"
    " rollout, norms and chefer see a part of what happens, gradient sees all of it"
)


class Relevance(ScalarOptions):
    """Say which input positions a prediction rests on, by five methods, each with its faithfulness.

    Raw attention, rollout (Abnar and Zuidema 2020), norms (Kobayashi et al. 2020), attention and gradient (Chefer et
    al. 2021), gradient times input; and, if asked for, attention flow. What is explained is the loss of a row, or the
    logit or box of one query or class.
    """

    name: ClassVar[str] = "relevance"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "best")

    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows; they need targets")
    rows: PositiveInt = Field(16, description="rows that are explained")
    shown: NonNegativeInt = Field(4, description="rows whose relevance is kept to be read")
    steps: PositiveInt = Field(10, description="points of a deletion curve")
    orders: PositiveInt = Field(5, description="random orders of each row, for comparison")
    flow: bool = Field(
        False, description="also by attention flow: a flow problem for each two positions, for few positions only"
    )
    randomise: bool = Field(True, description="also explain a model with shuffled weights, which should look different")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals over rows")
    draws: PositiveInt = Field(1000, description="resamples of rows for the intervals")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.relevance.study import RelevanceStudy, special_positions

        study = RelevanceStudy(
            run.task,
            run.model,
            run.plugins,
            self.steps,
            self.orders,
            run.seed,
            self.randomise,
            scalar=self,
            with_flow=self.flow,
        )
        shown: list[dict[str, Json]] = []
        in_windows = 0
        rows = run.rows(self.role)
        total = min(len(rows), self.rows)
        for index, row in enumerate(run.progress(islice(iter(rows), self.rows), total, label="relevance")):
            items = run.task.encode([row], "loss", run.seed)
            if len(items) != 1:
                in_windows += 1
                continue
            batch = run.task.collate(items, "loss").to(run.device)
            relevance = study.add(batch, special_positions(run.task, batch))
            if index < self.shown:
                shown.append(_shown(index, run.task.units(items[0]), {name: relevance[name] for name in study.names}))
        if not len(study.gains):
            cause = f"no row could be explained: of {total} rows {in_windows} are read in windows or not at all"
            raise UsageError(cause, hint="rows of one item (no windows) with two positions or more")
        if study.mixes:
            run.say(f"relevance: {_MIXES}")
        lines = study.summary(self.confidence, self.draws, run.seed)
        best = max(lines, key=lambda line: line["deletion"])
        return {
            "rows": len(study.gains),
            "rows_left_out": total - len(study.gains),
            "best": best["method"],
            "metrics": {f"{line['method']}_above_random": line["above_random"] for line in lines},
            "measures": "part",
            "role": self.role,
            "tables": {"faithfulness": lines, **_readable(shown, study.names)},
            "curves": [
                {
                    "title": "Change of what is explained when positions are deleted, the most relevant first",
                    "x": "share of the positions",
                    "series": study.deletion_curves(),
                }
            ],
            "relevance": shown,
            "remarks": [_MIXES] if study.mixes else [],
        }


def _shown(index: int, units: Units, relevance: Mapping[str, torch.Tensor]) -> dict[str, Json]:
    """Return the relevance of a row's positions: whole, and of the positions as they are shown on a page.

    Args:
        index: index of the row.
        units: what the positions are.
        relevance: by method, [positions].
    """
    from topwork_lens.head_weights import shown_positions

    values = {name: each.tolist() for name, each in relevance.items()}
    axis, groups = shown_positions(len(next(iter(values.values()))), units)
    methods = {
        name: [float(f"{sum(each[position] for position in group):.4g}") for group in groups]
        for name, each in values.items()
    }
    names = [str(name) for name in units.names]
    return {"row": index, "names": names, **values, "axis": axis, "methods": methods}


def _readable(shown: list[dict[str, Json]], methods: tuple[str, ...]) -> dict[str, list[dict[str, Json]]]:
    """Return a table for each shown row: the share of each position in the relevance by every method, in percent."""
    tables = {}
    for row in shown:
        totals = {name: sum(row[name]) for name in methods}
        tables[f"Relevance of positions in row {row['row']}, percent"] = [
            {
                "position": position,
                "what": row["names"][position] if position < len(row["names"]) else "",
                **{name: 100 * row[name][position] / totals[name] if totals[name] else 0.0 for name in methods},
            }
            for position in range(len(row[methods[0]]))
        ]
    return tables
