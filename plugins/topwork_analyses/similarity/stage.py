"""The stage `drift`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import Json, Stage

if TYPE_CHECKING:
    from torch import nn

    from topwork import Run


class Drift(Stage):
    """Compare the model with what it was: similarity of its layers (CKA), and how far attention heads have moved."""

    name: ClassVar[str] = "drift"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "least_similar_layer")

    other: str | None = Field(
        None, description="model folder to compare with; by default the base with its weights, before any training"
    )
    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows")
    rows: PositiveInt = Field(64, description="rows that both models read")
    stack: str | None = Field(
        None, description="path of the stack of layers; by default the first with states of one shape"
    )
    max_length: PositiveInt | None = Field(None, description="tokens of a text; by default what the model takes")
    permutations: PositiveInt = Field(100, description="random orders of the rows, for the null of the similarity")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals over rows")
    draws: PositiveInt = Field(1000, description="resamples of rows for the intervals")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.positions.readers import reader_of
        from topwork_analyses.similarity.drift import DriftStudy
        from topwork_lens.look import Look

        before = self._other(run).to(run.device).eval()
        rows = run.rows(self.role)
        first = next(iter(rows))
        models = (before, run.model)
        readers = [reader_of(run.task, model, first, self.max_length, with_targets=True) for model in models]
        looks = Look(readers[0].module, run.plugins), Look(readers[1].module, run.plugins)
        study = DriftStudy(readers[0], readers[1], looks, self.stack, self.permutations, run.seed)
        total = min(len(rows), self.rows)
        for index, row in enumerate(run.progress(islice(iter(rows), self.rows), total, label="drift")):
            for item in readers[1].encode(row, index)[:1]:
                study.add(item)
        layers, heads = study.layers(), study.heads(self.confidence, self.draws, run.seed)
        known = [line for line in layers if line["cka"] is not None]
        least = min(known, key=lambda line: line["cka"], default=None)
        series = {name: [[line["layer"], line[name]] for line in known] for name in ("cka", "null")}
        metrics: dict[str, Json] = {}
        if least is not None:
            metrics |= {"least_cka": least["cka"], "mean_cka": sum(line["cka"] for line in known) / len(known)}
        if heads:
            metrics["mean_divergence"] = sum(line["divergence"] for line in heads) / len(heads)
            metrics["largest_divergence"] = heads[0]["divergence"]
        return {
            "rows": study.rows,
            "least_similar_layer": None if least is None else least["layer"],
            "metrics": metrics,
            "measures": "part",
            "tables": {"layers": layers, "attention heads": heads},
            "curves": [{"title": "Similarity of layers (CKA)", "x": "layer", "series": series}],
        }

    def _other(self, run: Run) -> nn.Module:
        if self.other is None:
            return run.task.build()
        from topwork import load

        return load(self.other, plugins=run.plugins).model
